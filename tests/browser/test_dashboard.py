"""What a person does with the dashboard, in a real browser against the running demo."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open, picture
from tests.system.running import RunningSystem

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def chart_of(page: Page) -> None:
    """Wait until a chart is drawn."""
    expect(page.locator("canvas").first).to_be_visible()


def card_of(page: Page, symbol: str) -> Locator:
    """Return the link on a symbol's card in the watch list."""
    return page.locator(f".st-key-card-{symbol} a")


def test_the_first_look_shows_a_live_market(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/?symbol=SOLUSDT"))
    chart_of(page)
    expect(page.get_by_text("Live, last trade")).to_be_visible()
    expect(page.get_by_text("Complete, no trade missing")).to_be_visible()
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"):
        expect(card_of(page, symbol)).to_be_visible()
    picture(page, "dashboard-market")


def test_choosing_a_symbol_changes_the_address_and_the_address_opens_the_same_view(
    demo: RunningSystem, open_page: Open
) -> None:
    page = open_page(demo.url(8501, "/"))
    chart_of(page)
    card_of(page, "SOLUSDT").click()
    expect(page).to_have_url(re.compile("symbol=SOLUSDT"))
    page.get_by_role("radio", name="5m", exact=True).click()
    expect(page).to_have_url(re.compile("interval=5m"))
    shared = open_page(page.url, scheme="dark")
    chart_of(shared)
    expect(shared.get_by_role("radio", name="5m", exact=True)).to_be_checked()
    expect(card_of(shared, "SOLUSDT")).to_have_attribute("aria-current", "true")  # the chosen card stands out
    picture(shared, "dashboard-market-dark")


def test_prices_move_without_a_reload(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/"))
    price = page.get_by_test_id("stMetricValue").first
    expect(price).to_be_visible()
    before = price.inner_text()
    expect(price).not_to_have_text(before)


def test_the_market_is_readable_on_a_phone(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/"), width=390, height=844)
    chart_of(page)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    picture(page, "dashboard-phone")


def test_an_alert_opens_with_its_evidence_and_takes_a_word(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/alerts"))
    page.get_by_role("button", name="Why?").first.click()
    expect(page).to_have_url(re.compile("alert="))
    expect(page.get_by_text("Evidence", exact=True)).to_be_visible()
    chart_of(page)
    expect(page.get_by_text("delivered").first).to_be_visible()
    picture(page, "dashboard-alert")
    page.get_by_role("radio", name="yes").click()
    page.get_by_placeholder("Add a note (optional)").fill("the demo's pump")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("said")).to_be_visible()


def test_the_link_in_a_message_opens_its_alert(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/messages"))
    expect(page.get_by_text("This is what would be in the channel")).to_be_visible()
    expect(page.locator("[data-testid=stVerticalBlock] strong").first).to_be_visible()
    picture(page, "dashboard-messages")
    alert = open_page(demo.url(8501, "/alerts"))
    alert.get_by_role("button", name="Why?").first.click()
    expect(alert).to_have_url(re.compile("alert="))
    alert_id = alert.url.partition("alert=")[2].partition("&")[0]
    linked = open_page(demo.url(8501, f"/?symbol=SOLUSDT&alert={alert_id}"))
    expect(linked.get_by_text("Evidence", exact=True)).to_be_visible()


def test_a_rule_is_tried_and_the_answer_follows_the_edit(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/try-rules"))
    rule = page.get_by_role("textbox", name="Rule (TOML)")
    expect(rule).to_be_visible()
    rule.fill(rule.input_value().replace("2.0", "0.3"))
    rule.press("Control+Enter")
    expect(page.get_by_text(re.compile(r"^\d+ times$"))).to_be_visible()
    chart_of(page)
    picture(page, "dashboard-try-rules")
    rule.fill(rule.input_value().replace("kind", "kindd"))
    rule.press("Control+Enter")
    expect(page.get_by_text(re.compile(r"line \d+: kind is missing"))).to_be_visible()


def test_the_data_page_shows_that_nothing_is_missing(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/data"), height=1130)
    missing = page.get_by_test_id("stMetric").filter(has_text="Missing trades")  # a table has a column of this name
    expect(missing.get_by_test_id("stMetricValue")).to_have_text("0")
    chart_of(page)
    link = page.get_by_role("link", name="Lineage")
    assert link.get_attribute("href") == demo.url(3000, "/asset-groups")
    expect(page.get_by_label("The newest runs with their state, start and length", exact=True)).to_be_visible()
    picture(page, "dashboard-data")


def test_the_pages_are_reached_by_keyboard(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8501, "/"))
    expect(page.get_by_role("link", name="Alerts")).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip().endswith("Alerts"):
            break
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/alerts"))
