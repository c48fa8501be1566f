"""Trade and label files of others: many spellings, one meaning."""

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from cryptotrace_dagster.pipeline.trade_files import TradeFileError, read_labels, read_trades

NOON = datetime(2021, 3, 7, 12)
MILLISECONDS = 1615118400000


def trade_file(path: Path, timestamp: object, *, price: float = 3e-5, side: str = "buy") -> Path:
    row = {"symbol": "VIA/BTC", "timestamp": timestamp, "side": side, "price": price, "amount": 12.5}
    pl.DataFrame([row]).write_csv(path)
    return path


@pytest.mark.parametrize(
    "timestamp",
    [
        MILLISECONDS // 1000,
        MILLISECONDS,
        MILLISECONDS * 1000,
        MILLISECONDS * 10**6,
        1615118400.0,
        "2021-03-07T12:00:00Z",
        "2021-03-07 12:00:00.000",
        "2021-03-07T13:00:00+01:00",
    ],
)
def test_instants_are_understood_in_every_usual_unit(tmp_path: Path, timestamp: object) -> None:
    ticks = read_trades(trade_file(tmp_path / "trades.csv", timestamp))
    assert ticks["trade_time"].to_list() == [NOON]


def test_parquet_and_csv_hold_the_same_trades(tmp_path: Path) -> None:
    csv = trade_file(tmp_path / "trades.csv", MILLISECONDS)
    pl.read_csv(csv).write_parquet(tmp_path / "trades.parquet")
    assert read_trades(csv).equals(read_trades(tmp_path / "trades.parquet"))


def test_the_aggressor_and_the_order_within_an_instant_are_kept(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "timestamp": [MILLISECONDS + 1, MILLISECONDS, MILLISECONDS],
            "side": ["sell", "buy", "buy"],
            "price": [3.0, 2.0, 1.0],  # newest first: the file runs backwards
            "amount": [1, 1, 1],
        }
    )
    frame.write_csv(tmp_path / "via-btc.csv")
    ticks = read_trades(tmp_path / "via-btc.csv")
    assert [float(price) for price in ticks["price"]] == [1.0, 2.0, 3.0]
    assert ticks["is_buyer_maker"].to_list() == [False, False, True]
    assert ticks["symbol"].unique().to_list() == ["VIABTC"]
    assert ticks["trade_id"].to_list() == [1, 2, 3]


def test_prices_near_our_last_decimal_keep_their_moves(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"timestamp": [MILLISECONDS, MILLISECONDS + 5], "side": "buy", "price": [1.11e-8, 1.12e-8], "amount": 1e9}
    )
    frame.write_csv(tmp_path / "hot.csv")
    first, second = (float(price) for price in read_trades(tmp_path / "hot.csv")["price"])
    assert second / first == pytest.approx(1.12 / 1.11)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("time,price,amount\n1,2,3\n", "no column side"),
        ("timestamp,side,price,amount\n1615118400,up,2,3\n", "side must be buy or sell"),
        ("timestamp,side,price,amount\n1615118400,buy,-2,3\n", "positive"),
        ("timestamp,side,price,amount\n", "no trades"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wanted(tmp_path: Path, content: str, hint: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(TradeFileError, match=hint):
        read_trades(path)


@pytest.mark.parametrize(
    "content",
    [
        f"symbol,timestamp\nVIA/BTC,{MILLISECONDS}\n",
        "symbol,time\nVIA,2021-03-07T12:00:00Z\n",
        "group,date,hour,symbol,exchange\nx,2021-03-07,12:00,VIA,binance\n",
        "event_time\n2021-03-07 12:00:00\n",
    ],
)
def test_labels_are_read_in_the_usual_forms(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    (event,) = read_labels(path)
    assert event.time == NOON
    assert event.concerns("VIA/BTC")
