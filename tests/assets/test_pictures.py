"""What Dagster shows of a materialisation beside numbers: small enough for its event log."""

from datetime import timedelta

import dagster as dg
import polars as pl
import pytest

from cryptotrace_dagster.assets.detection import anomaly_scores
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.bars import refresh_bars
from cryptotrace_dagster.pipeline.completeness import completeness_table
from cryptotrace_dagster.pipeline.ingest import store_ticks
from cryptotrace_dagster.pipeline.score_chart import strangest_of
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.storage import Warehouse
from cryptotrace_dagster.tables import ANOMALY_SCORES
from tests.builders import NOON, ticks
from tests.detection.history import START, stored, trades

DAY = Window(START, START + timedelta(days=1))


@pytest.fixture
def scored(warehouse: Warehouse) -> Warehouse:
    """Return a day of two symbols, of which one has hundreds of strange bars."""
    stored(warehouse, pl.concat([trades(hours=24), trades("CALMBTC", hours=24, seed=1)]), 24)
    rows = [
        {
            "symbol": "THINBTC",
            "bar_interval": "1m",
            "bar_start": START + timedelta(minutes=4 * number),
            "detector": "seasonal_trend",
            "detector_version": 1,
            "raw_score": 1.0,
            "times_a_day": 10.0 ** -(number / 120),
            "score": number / 120,
            "explanation": "{}",
        }
        for number in range(350)
    ]
    with warehouse.transaction() as transaction:
        transaction.append(ANOMALY_SCORES, pl.DataFrame(rows, schema=ANOMALY_SCORES.polars_schema))
    return warehouse


def test_the_chart_shows_the_strangest_symbol_and_is_small(scored: Warehouse) -> None:
    chart = strangest_of(scored, DAY)
    assert chart is not None
    assert chart.caption.startswith("THINBTC at 23:16:00 UTC: `seasonal_trend`")
    assert len(chart.png) <= 15_000


def test_a_day_without_anything_strange_has_no_chart(warehouse: Warehouse) -> None:
    assert strangest_of(warehouse, DAY) is None


def test_a_materialisation_of_scores_carries_the_chart(scored: Warehouse) -> None:
    result = dg.materialize(
        [anomaly_scores],
        partition_key=f"{START:%Y-%m-%d}",
        resources={"warehouse": WarehouseResource(url=scored.url)},
        instance=dg.DagsterInstance.ephemeral(),
    )
    shown = str(result.asset_materializations_for_node("anomaly_scores")[0].metadata["strangest"].value)
    assert shown.startswith("![The day's strangest symbol](data:image/png;base64,")
    assert len(shown) <= 22_000


def test_completeness_tells_complete_days_from_days_with_holes(warehouse: Warehouse) -> None:
    assert completeness_table(warehouse) is None
    store_ticks(
        warehouse,
        pl.concat(
            [
                ticks({"symbol": "ABCUSDT"}, {"symbol": "ABCUSDT"}),
                ticks({"trade_id": 1}, {"trade_id": 5}),
                ticks({"trade_id": 6, "trade_time": NOON + timedelta(days=1)}),
            ]
        ),
        NOON,
    )
    refresh_bars(warehouse, Window(NOON, NOON + timedelta(days=2)))
    assert completeness_table(warehouse) == (
        "| symbol | 05 Jan | 06 Jan |\n|---|---|---|\n| BTCUSDT | 3 missing | ✓ |\n| ABCUSDT | ✓ | - |"
    )
