"""Values leave the house exactly: plain decimals, unmistakable times."""

from datetime import datetime
from decimal import Decimal

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.formats import plain, records, to_csv, to_json


@given(st.decimals(min_value=-(10**15), max_value=10**15, places=16))
def test_a_decimal_keeps_its_value_and_at_least_eight_places(value: Decimal) -> None:
    text = plain(pl.DataFrame({"x": [value]}, schema={"x": pl.Decimal(38, 16)}))["x"][0]
    assert Decimal(text) == value
    assert "E" not in text.upper()
    places = len(text.split(".")[1])
    assert places >= 8
    assert places == 8 or not text.endswith("0")


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2199, 1, 1)))
def test_a_time_keeps_its_value_and_says_utc(value: datetime) -> None:
    text = plain(pl.DataFrame({"x": [value]}, schema={"x": pl.Datetime("us")}))["x"][0]
    assert text.endswith("Z")
    assert datetime.fromisoformat(text).replace(tzinfo=None) == value


def test_json_has_no_infinity_and_embeds_evidence() -> None:
    frame = pl.DataFrame({"score": [float("inf")], "evidence": ['{"a": [1, 2]}'], "payload": [b"\xff{"]})
    assert records(frame)[0]["evidence"] == {"a": [1, 2]}
    assert to_json(frame) == b'[{"score":null,"evidence":{"a":[1,2]},"payload":"\\\\xff{"}]'


def test_csv_writes_bytes_as_hexadecimal() -> None:
    assert to_csv(pl.DataFrame({"payload": [b"\xff\x00"]})) == b"payload\nff00\n"


def test_a_query_of_ones_own_may_name_a_text_like_a_column_of_json() -> None:
    frame = pl.DataFrame({"evidence": ["sudden-move", None], "explanation": [1, 2]})
    assert records(frame) == [{"evidence": "sudden-move", "explanation": 1}, {"evidence": None, "explanation": 2}]


def test_csv_spells_lists_and_structures_as_json() -> None:
    frame = pl.DataFrame({"ids": [[1, 2], None], "trade": [{"price": Decimal("1.5")}, {"price": None}]})
    assert to_csv(frame) == b'ids,trade\n"[1,2]","{""price"":""1.5""}"\n,"{""price"":null}"\n'
