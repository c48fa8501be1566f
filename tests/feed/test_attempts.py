"""The exchange's budget of attempts, and the waits between them."""

from pathlib import Path

from cryptotrace_dagster.feed.attempts import AttemptBudget, backoff_seconds


def test_the_budget_is_kept_across_restarts(tmp_path: Path) -> None:
    now = [1_000.0]
    file = tmp_path / "attempts.json"
    for _ in range(240):
        AttemptBudget(file, clock=lambda: now[0]).spend()
        now[0] += 0.5
    reborn = AttemptBudget(file, clock=lambda: now[0])
    assert 179.0 < reborn.wait_seconds() < 181.0
    now[0] += 181.0
    assert reborn.wait_seconds() == 0.0


def test_shards_share_the_budget(tmp_path: Path) -> None:
    budget = AttemptBudget(tmp_path / "attempts.json", shards=4, clock=lambda: 1_000.0)
    for _ in range(60):
        assert budget.wait_seconds() == 0.0
        budget.spend()
    assert budget.wait_seconds() == 300.0


def test_a_clock_that_was_set_back_does_not_block_for_ever(tmp_path: Path) -> None:
    now = [10_000.0]
    budget = AttemptBudget(tmp_path / "attempts.json", shards=240, clock=lambda: now[0])
    budget.spend()
    now[0] = 1_000.0
    assert budget.wait_seconds() == 0.0


def test_a_damaged_file_is_an_empty_budget(tmp_path: Path) -> None:
    file = tmp_path / "attempts.json"
    file.write_text("[1, ")
    assert AttemptBudget(file).wait_seconds() == 0.0


def test_a_full_disk_keeps_nobody_from_connecting(tmp_path: Path) -> None:
    (tmp_path / "attempts.tmp").mkdir()  # nothing can be written there
    budget = AttemptBudget(tmp_path / "attempts.json", shards=240, clock=lambda: 1_000.0)
    budget.spend()
    assert budget.wait_seconds() == 300.0


def test_the_back_off_is_jittered_over_its_whole_length_and_capped() -> None:
    assert [backoff_seconds(n, uniform=lambda low, high: high) for n in (0, 1, 3, 50)] == [0.5, 1.0, 4.0, 30.0]
    assert backoff_seconds(50, uniform=lambda low, high: low) == 0.0
