"""How long a silence is borne."""

from cryptotrace_dagster.feed.watch import MINIMUM_PATIENCE_SECONDS, SilenceWatch


def watched(trades_a_second: float, seconds: int, patience_seconds: float = 30.0) -> tuple[SilenceWatch, float]:
    """Return a watch that has seen a steady stream, and the present moment."""
    watch = SilenceWatch(0.0, patience_seconds)
    for second in range(1, seconds + 1):
        watch.look(float(second), int(trades_a_second * second))
    return watch, float(seconds)


def test_a_socket_that_never_speaks_is_silent_after_the_longest_patience() -> None:
    watch = SilenceWatch(0.0, 15.0)
    watch.look(14.0, 0)
    assert not watch.is_silent(14.0)
    watch.look(16.0, 0)
    assert watch.is_silent(16.0)


def test_a_quick_stream_is_missed_after_seconds_and_a_slow_one_is_not() -> None:
    quick, now = watched(100, 30)
    slow, _ = watched(0.5, 30)
    assert quick.patience_seconds(now) == MINIMUM_PATIENCE_SECONDS
    assert slow.patience_seconds(now) == 30.0
    assert quick.is_silent(now + 5) and not slow.is_silent(now + 5)


def test_patience_follows_the_rate_in_between() -> None:
    watch, now = watched(4, 60)
    assert 9 < watch.patience_seconds(now) < 11


def test_a_silence_that_was_looked_into_earns_longer_patience_until_the_next_trade() -> None:
    watch, now = watched(100, 30)
    watch.trust(now + 5, longest_seconds=600)
    assert not watch.is_silent(now + 5 + 1.9 * MINIMUM_PATIENCE_SECONDS)
    watch.look(now + 10, 3_001)
    assert watch.patience_seconds(now + 10) == MINIMUM_PATIENCE_SECONDS


def test_a_stream_that_has_become_slow_is_judged_by_its_present_rate() -> None:
    watch, now = watched(100, 30)
    for step in range(1, 601):
        watch.look(now + step, 3_000 + step // 20)
    assert watch.rate < 0.1
