"""The API's documentation and Dagster's UI, in a real browser against the running demo."""

import re

import pytest
from playwright.sync_api import Response, expect

from tests.browser.conftest import Open, picture
from tests.system.running import RunningSystem

CHECKS_OF_BARS = (
    "bars_add_up_to_the_ticks",
    "bars_are_consistent",
    "bars_equal_the_exchanges_klines",
    "no_bar_lies_in_the_future",
)
RUN_PATIENCE_MS = 420_000
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def test_the_api_documentation_answers_a_question(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(8000, "/docs"))
    page.locator("#operations-market-symbols_symbols_get").get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table").get_by_text("last_price").first).to_be_visible()
    page.locator("#operations-market-symbols_symbols_get").evaluate("shown => shown.scrollIntoView()")
    picture(page, "api-docs")


def test_dagster_shows_the_whole_way_of_the_data(demo: RunningSystem, open_page: Open) -> None:
    page = open_page(demo.url(3000, "/asset-groups"), width=1600, height=640)
    expect(page.get_by_text("Materialize all")).to_be_visible()
    page.keyboard.press("Alt+KeyE")  # expands all groups
    for asset in ("raw_ticks", "ohlc_bars", "anomaly_scores", "alerts"):
        expect(page.get_by_text(asset, exact=True).first).to_be_attached()
    picture(page, "dagster-lineage")


def test_an_asset_is_materialised_by_hand_and_its_checks_are_seen(demo: RunningSystem, open_page: Open) -> None:
    """The run waits in the queue until the live run has made way for it; then every check of the asset speaks."""
    page = open_page(demo.url(3000, "/assets/ohlc_bars?view=checks"))
    for check in CHECKS_OF_BARS:
        expect(page.get_by_text(check).first).to_be_attached()  # a long name is shown shortened
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Latest", exact=True).click(timeout=RUN_PATIENCE_MS)  # knows the days by then
    launch = dialog.get_by_role("button", name="Launch 1 run")  # says so once the day is chosen
    with page.expect_response(_is_launch, timeout=RUN_PATIENCE_MS) as answer:
        launch.click(timeout=RUN_PATIENCE_MS)
    run_id = answer.value.json()["data"]["launchPipelineExecution"]["run"]["id"]
    run = open_page(demo.url(3000, f"/runs/{run_id}"))
    expect(run.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_PATIENCE_MS)
    page.reload()
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(len(CHECKS_OF_BARS))
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()
    picture(page, "dagster-checks")


def _is_launch(response: Response) -> bool:
    return '"LaunchPipelineExecution"' in (response.request.post_data or "")
