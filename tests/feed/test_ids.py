"""What an arriving id means, under any order of arrival."""

from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.feed.ids import Arrival, OpenGaps, TradeIds, subtract


def arrive(ids: TradeIds, trade_id: int) -> Arrival:
    """Let an id arrive as the intake does: published unless it is a repeat or implausible."""
    arrival = ids.classify(trade_id)
    if arrival not in {Arrival.REPEAT, Arrival.IMPLAUSIBLE}:
        ids.record(trade_id, fetch_at=0.0)
    return arrival


def test_the_first_id_opens_no_gap() -> None:
    ids = TradeIds()
    assert arrive(ids, 1_000) is Arrival.NEXT
    assert (ids.first_id, ids.next_id, len(ids.gaps)) == (1_000, 1_001, 0)


def test_a_jump_opens_a_gap_that_late_trades_close() -> None:
    ids = TradeIds()
    assert [arrive(ids, number) for number in (1, 5, 3)] == [Arrival.NEXT, Arrival.JUMP, Arrival.LATE]
    assert [(gap.first, gap.last) for gap in ids.gaps] == [(2, 2), (4, 4)]
    assert [arrive(ids, number) for number in (3, 2, 4, 6)] == [
        Arrival.REPEAT,
        Arrival.LATE,
        Arrival.LATE,
        Arrival.NEXT,
    ]
    assert ids.gaps.missing == 0


def test_a_damaged_id_far_ahead_does_not_move_what_is_expected() -> None:
    ids = TradeIds()
    arrive(ids, 1)
    assert arrive(ids, 9_000_000_000_000) is Arrival.IMPLAUSIBLE
    assert arrive(ids, 2) is Arrival.NEXT


def test_an_id_that_only_rest_has_shows_what_is_missing_up_to_it() -> None:
    ids = TradeIds()
    arrive(ids, 1)
    assert ids.note_existing(4, fetch_at=0.0) == 3
    assert ids.note_existing(4, fetch_at=0.0) == 0
    assert arrive(ids, 3) is Arrival.LATE


def test_a_vain_attempt_is_counted_only_for_what_was_asked() -> None:
    gaps = OpenGaps()
    gaps.add(10, 29, due_at=0.0)
    gaps.postpone(10, 19, due_at=5.0)
    assert [(gap.first, gap.last, gap.attempts, gap.due_at) for gap in gaps] == [(10, 19, 1, 5.0), (20, 29, 0, 0.0)]
    assert gaps.next_due() == list(gaps)[1]


@given(arrivals=st.lists(st.integers(1, 60), min_size=1, max_size=200))
def test_published_and_missing_ids_are_together_everything_since_the_first(arrivals: list[int]) -> None:
    ids, published = TradeIds(), []
    for trade_id in arrivals:
        if arrive(ids, trade_id) is not Arrival.REPEAT:
            published.append(trade_id)
    missing = {number for gap in ids.gaps for number in range(gap.first, gap.last + 1)}
    assert len(published) == len(set(published))
    assert set(published) | missing == set(range(ids.first_id, max(published) + 1))
    assert not set(published) & missing


@given(
    whole=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    parts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(lambda part: part[0] <= part[1])),
)
def test_subtracting_ranges_is_subtracting_sets(whole: tuple[int, int], parts: list[tuple[int, int]]) -> None:
    left = subtract(whole, parts)
    expected = set(range(whole[0], whole[1] + 1)) - {i for first, last in parts for i in range(first, last + 1)}
    assert {i for first, last in left for i in range(first, last + 1)} == expected
    assert left == sorted(left)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "postpone"]), st.integers(0, 40), st.integers(0, 10)), max_size=30
    )
)
def test_open_gaps_hold_a_set_as_disjoint_ranges(steps: list[tuple[str, int, int]]) -> None:
    gaps, expected = OpenGaps(), set[int]()
    for action, first, length in steps:
        touched = set(range(first, first + length + 1))
        if action == "add":
            assert gaps.add(first, first + length, 0.0) == len(touched - expected)
            expected |= touched
        elif action == "remove":
            assert gaps.remove(first, first + length) == len(touched & expected)
            expected -= touched
        else:
            gaps.postpone(first, first + length, 1.0)
        held = [number for gap in gaps for number in range(gap.first, gap.last + 1)]
        assert held == sorted(expected)
        assert gaps.missing == len(expected)
        assert all((number in gaps) == (number in expected) for number in range(60))
        assert gaps.missing_between(first, first + length) == len(touched & expected)
