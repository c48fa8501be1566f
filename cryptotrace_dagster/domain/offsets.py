"""Which Kafka offsets to read next, decided from what is stored and what the broker still holds. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OffsetRange:
    """The offsets [start, end) of one topic partition."""

    topic_partition: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Return the number of offsets in the range."""
        return self.end - self.start


@dataclass(frozen=True)
class OffsetPlan:
    """What to read, and what the plan had to give up."""

    ranges: tuple[OffsetRange, ...]
    evicted: Mapping[int, int]  # topic partition -> offsets that the broker had deleted before they were read
    restarted: tuple[int, ...]  # topic partitions whose log is shorter than what is stored: it was made anew

    @property
    def lag(self) -> int:
        """Return the number of messages still to be read."""
        return sum(each.length for each in self.ranges)


def plan_offsets(
    stored: Mapping[int, int], low_watermarks: Mapping[int, int], high_watermarks: Mapping[int, int]
) -> OffsetPlan:
    """Return the ranges from the stored offsets up to the high watermarks.

    `stored` maps a topic partition to its next offset and holds this cluster's and this topic's offsets only. A
    partition that is not stored starts at its low watermark. A stored offset below the low watermark means that
    messages were evicted: the plan starts at what is left and says how many are gone (the trade ids will tell which).
    A stored offset beyond the high watermark means that the log was made anew: it is read from its start, because ids
    keep the ticks unique whereas a skipped message would be a lost trade.
    """
    ranges: list[OffsetRange] = []
    evicted: dict[int, int] = {}
    restarted: list[int] = []
    for partition, high in sorted(high_watermarks.items()):
        low = low_watermarks[partition]
        start = stored.get(partition, low)
        if start > high:
            restarted.append(partition)
            start = low
        elif start < low:
            evicted[partition] = low - start
            start = low
        if start < high:
            ranges.append(OffsetRange(partition, start, high))
    return OffsetPlan(tuple(ranges), evicted, tuple(restarted))
