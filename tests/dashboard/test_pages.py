"""Each page shows what a person needs, and says what to do when there is nothing to show."""

from pathlib import Path

import pytest

import cryptotrace_dagster.dashboard
from cryptotrace_dagster.dashboard.alerts import evidence_rows
from cryptotrace_dagster.storage import Warehouse
from tests.dashboard.conftest import Show


def words(app) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.subheader, *app.text, *app.warning, *app.error]
    return " ".join(str(part.value) for part in parts)


def test_the_first_look_tells_market_and_machine(show: Show, filled: Path) -> None:
    app = show(filled)
    assert not app.exception
    assert [metric.label for metric in app.metric] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    shown = words(app)
    assert "Live, last trade" in shown
    assert "20 trades missing" in shown
    assert "◆ alert" in shown


def test_a_shared_address_opens_the_same_view(show: Show, filled: Path) -> None:
    app = show(filled, symbol="SOLUSDT", interval="5m", feature="rsi")
    assert not app.exception
    assert app.selectbox(key="symbol").value == "SOLUSDT"
    assert app.selectbox(key="feature").value == "rsi"


def test_each_card_links_to_its_symbol_and_keeps_the_rest(show: Show, filled: Path) -> None:
    app = show(filled, symbol="BTCUSDT", interval="5m")
    links = [block.value for block in app.get("html")]
    assert any('href="?symbol=SOLUSDT&amp;interval=5m"' in link and "aria-current" not in link for link in links)
    assert any('href="?symbol=BTCUSDT&amp;interval=5m"' in link and "aria-current" in link for link in links)


def test_an_address_that_names_nothing_known_is_not_an_error(show: Show, filled: Path) -> None:
    app = show(filled, symbol="NOSUCH", interval="7m", feature="'; DROP TABLE alerts")
    assert not app.exception
    assert app.selectbox(key="symbol").value == "BTCUSDT"


def test_before_there_is_data_the_page_says_how_to_start(show: Show, tmp_path: Path) -> None:
    for page in (None, "alerts.alerts", "health.data", "rules.try_rules_page"):
        app = show(tmp_path, page)
        assert not app.exception
        assert "cryptotrace up --demo" in words(app)


def test_an_empty_store_waits_in_words(show: Show, tmp_path: Path) -> None:
    Warehouse(str(tmp_path / "cryptotrace.duckdb")).create()
    for page in (None, "alerts.alerts", "health.data"):
        app = show(tmp_path, page)
        assert not app.exception
        assert app.info


def test_alerts_are_listed_with_their_reason_and_delivery(show: Show, filled: Path) -> None:
    shown = words(show(filled, "alerts.alerts"))
    assert "14 times its usual volume" in shown
    assert "delivered" in shown
    assert "waiting" in shown


def test_filters_narrow_the_list(show: Show, filled: Path) -> None:
    app = show(filled, "alerts.alerts")
    app.selectbox(key="severity").select("warning").run()
    assert "fell below" in words(app)
    assert "14 times" not in words(app)
    app.selectbox(key="alert_symbol").select("ETHUSDT").run()
    assert "Nothing rang" in words(app)


def test_one_alert_shows_evidence_attempts_and_takes_feedback(show: Show, filled: Path) -> None:
    app = show(filled, "alerts.alerts", alert="a1b2c3d4")
    assert not app.exception
    shown = words(app)
    assert "429 rate limited" in shown
    assert "attempt 2" in shown
    app.button_group[0].set_value("no")
    app.text_input[0].set_value("only a listing")
    next(button for button in app.button if button.label == "Save").click().run()
    assert not app.exception
    stored = Warehouse(str(filled / "cryptotrace.duckdb")).read("SELECT alert_id, was_right, note FROM alert_feedback")
    assert stored.rows() == [("a1b2c3d4", False, "only a listing")]
    assert "not right" in words(app)


def test_an_alert_that_is_gone_is_explained(show: Show, filled: Path) -> None:
    assert "no alert with this address" in words(show(filled, "alerts.alerts", alert="nope"))


def test_the_data_page_counts_what_is_missing(show: Show, filled: Path) -> None:
    app = show(filled, "health.data")
    assert not app.exception
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["Missing trades"] == "20"
    assert figures["Unreadable messages"] == "1"
    assert app.dataframe[0].value["missing_trades"].to_list() == [0, 20, 0]


def test_a_rule_is_tried_over_the_stored_market(show: Show, filled: Path) -> None:
    app = show(filled, "rules.try_rules_page")
    assert not app.exception
    assert app.metric[0].value == "1 time"
    assert app.metric[1].value == "16.0"  # once in the hour and a half that is stored, not once in a day
    app.text_area[0].set_value(app.text_area[0].value.replace("2.0", "50.0")).run()
    assert "kept quiet" in words(app)
    app.text_area[0].set_value(app.text_area[0].value.replace("within", "withn")).run()
    assert "line 5" in words(app)


@pytest.mark.parametrize("template", ["A price level", "A volume surge", "An unusual bar"])
def test_every_template_is_a_rule_that_can_be_tried(show: Show, filled: Path, template: str) -> None:
    app = show(filled, "rules.try_rules_page")
    app.selectbox(key="template").select(template).run()
    assert not app.exception
    assert not app.error
    assert app.metric[1].value.replace(".", "").isdigit()


def test_evidence_is_a_table_of_words_and_values() -> None:
    evidence = '{"kind": "move", "rule_fingerprint": "ab", "measure": 9.1201, "usual_quote_volume_60s": 453399.5, "explanation": {"rush_orders": 0.25, "names": ["a"]}}'
    assert evidence_rows(evidence).rows() == [
        ("What the rule measured", "9.12"),
        ("Usually traded in 60 s", "453,399.5"),
        ("Rush orders", "0.25"),
        ("Names", '["a"]'),
    ]


def test_no_page_calls_python_from_within_polars() -> None:
    """Guards against a deadlock: with five viewers, threads of Polars and of sessions waited for each other for good."""
    folder = Path(cryptotrace_dagster.dashboard.__file__).parent
    assert [path.name for path in folder.glob("*.py") if "map_elements" in path.read_text()] == []
