"""The API's documentation and Dagster's UI, in a real browser against the running demo."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, picture
from tests.system.running import RunningSystem

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def test_the_api_documentation_answers_a_question(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8000, "/docs"))
    page.locator("#operations-market-symbols_symbols_get").get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table").get_by_text("last_price").first).to_be_visible()
    picture(page, "api-docs")


def test_dagster_shows_the_whole_way_of_the_data(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(3000, "/asset-groups"), width=1600)
    expect(page.get_by_text("Materialize all")).to_be_visible()
    page.keyboard.press("Alt+KeyE")  # expands all groups
    for asset in ("raw_ticks", "ohlc_bars", "anomaly_scores", "alerts"):
        expect(page.get_by_text(asset, exact=True).first).to_be_attached()
    picture(page, "dagster-lineage")


def test_dagster_lists_the_checks_of_an_asset_by_what_they_hold(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(3000, "/assets/ohlc_bars?view=checks"))
    for check in ("bars_are_consistent", "bars_add_up_to_the_ticks", "no_bar_lies_in_the_future"):
        expect(page.get_by_text(check).first).to_be_visible()
    picture(page, "dagster-checks")
