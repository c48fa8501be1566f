"""The picture of an alert: candles that anyone can read, and never a reason to be late."""

import io
from datetime import timedelta

import polars as pl
import pytest
from PIL import Image

from cryptotrace_dagster.looks import LIGHT
from cryptotrace_dagster.notify.chart import candle_chart
from cryptotrace_dagster.pipeline import delivery
from cryptotrace_dagster.pipeline.delivery import deliver_alerts
from cryptotrace_dagster.receiver.server import DiscordReceiver, ReceiverConfig
from cryptotrace_dagster.storage import Warehouse
from tests.builders import NOON
from tests.notify.outbox import GENEROUS, alert, messenger, outcomes, put
from tests.rules.market import seconds_of, store


def candles(*bodies: tuple[float, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "start": NOON + timedelta(seconds=10 * index),
                "open": float(first),
                "high": float(max(first, last)),
                "low": float(min(first, last)),
                "close": float(last),
                "volume": 1.0,
            }
            for index, (first, last) in enumerate(bodies)
        ]
    )


def colours(png: bytes) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return {colour for _, colour in image.getcolors(100_000) or []}


def test_rising_and_falling_candles_have_colours_that_anyone_can_tell_apart() -> None:
    rising = colours(candle_chart(candles((1, 2), (2, 3)), "BTCUSDT", NOON + timedelta(seconds=20), 10))
    falling = colours(candle_chart(candles((3, 2), (2, 1)), "BTCUSDT", NOON + timedelta(seconds=20), 10))
    blue, vermilion = (tuple(bytes.fromhex(each.removeprefix("#"))) for each in (LIGHT.rising, LIGHT.falling))

    assert blue in rising and vermilion not in rising
    assert vermilion in falling and blue not in falling


@pytest.mark.parametrize("bodies", [[(5, 5)], [(5, 5), (5, 5)], [(1e-7, 2e-7)] * 90, [(98_000, 98_001)] * 3])
def test_any_market_can_be_drawn(bodies: list[tuple[float, float]]) -> None:
    png = candle_chart(candles(*bodies), "X" * 60, NOON + timedelta(hours=1), 10)

    assert Image.open(io.BytesIO(png)).size == (640, 320)


def test_an_opening_alert_carries_its_chart_and_an_end_does_not(warehouse: Warehouse) -> None:
    store(warehouse, seconds_of([100.0 + index / 10 for index in range(120)], start=NOON - timedelta(seconds=100)))
    put(warehouse, alert(1), alert(2, phase="end"))
    with DiscordReceiver(ReceiverConfig(limits=GENEROUS)) as receiver:
        deliver_alerts(warehouse, messenger(receiver.webhook_url), NOON + timedelta(seconds=30))
        attached = [[kept["filename"] for kept in each["attachments"]] for each in receiver.messages]

    assert attached == [["chart.png"], []]


def test_an_alert_leaves_without_its_chart_when_drawing_fails(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture must never lose an alert."""

    def broken(*_: object) -> bytes:
        raise OSError("no fonts")

    monkeypatch.setattr(delivery, "candle_chart", broken)
    store(warehouse, seconds_of([100.0] * 120, start=NOON - timedelta(seconds=100)))
    put(warehouse, alert(1))
    with DiscordReceiver(ReceiverConfig(limits=GENEROUS)) as receiver:
        deliver_alerts(warehouse, messenger(receiver.webhook_url), NOON + timedelta(seconds=30))
        assert receiver.messages[0]["attachments"] == []

    assert outcomes(warehouse) == [("1", 1, "delivered")]
