"""Which offsets are read next: the cases that a broker produces and a run would seldom meet."""

from hypothesis import given
from hypothesis import strategies as st

from cryptotrace_dagster.domain.offsets import OffsetRange, plan_offsets


def test_a_partition_that_was_never_read_starts_at_its_oldest_message() -> None:
    assert plan_offsets({}, {0: 7}, {0: 10}).ranges == (OffsetRange(0, 7, 10),)


def test_reading_goes_on_where_the_last_commit_stood() -> None:
    assert plan_offsets({0: 8}, {0: 0}, {0: 10}).ranges == (OffsetRange(0, 8, 10),)


def test_nothing_is_planned_when_the_warehouse_is_level_with_kafka() -> None:
    plan = plan_offsets({0: 10, 1: 3}, {0: 0, 1: 0}, {0: 10, 1: 3})
    assert plan.ranges == () and plan.lag == 0


def test_evicted_messages_are_counted_and_the_rest_is_read() -> None:
    plan = plan_offsets({0: 5}, {0: 9}, {0: 12})
    assert plan.ranges == (OffsetRange(0, 9, 12),)
    assert plan.evicted == {0: 4}


def test_a_log_shorter_than_what_was_read_was_made_anew_and_is_read_from_its_start() -> None:
    plan = plan_offsets({0: 500}, {0: 0}, {0: 20})
    assert plan.ranges == (OffsetRange(0, 0, 20),)
    assert plan.restarted == (0,)


@given(
    st.dictionaries(
        st.integers(0, 5),
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 120))),
        min_size=1,
    )
)
def test_a_plan_never_leaves_the_log_and_never_skips_what_is_unread(
    partitions: dict[int, tuple[int, int, int | None]],
) -> None:
    low = {p: values[0] for p, values in partitions.items()}
    high = {p: values[0] + values[1] for p, values in partitions.items()}
    stored = {p: values[2] for p, values in partitions.items() if values[2] is not None}
    plan = plan_offsets(stored, low, high)
    planned = {each.topic_partition: each for each in plan.ranges}
    for partition in partitions:
        each = planned.get(partition)
        next_unread = stored.get(partition, low[partition])
        if each is None:
            assert next_unread == high[partition] or low[partition] == high[partition]
        else:
            assert low[partition] <= each.start < each.end == high[partition]
            assert each.start <= max(next_unread, low[partition])
