"""Who watches what: a symbol's feed among several, and its connection among several. Pure."""

import heapq
from collections.abc import Mapping, Sequence
from zlib import crc32

from cryptotrace_dagster.binance.messages import MAX_STREAMS_PER_CONNECTION


def shard_of(symbols: Sequence[str], shard: str) -> list[str]:
    """Return the symbols of shard `i/n`, i from 1 to n.

    The share follows from the symbol alone, not from the list, so that feeds whose lists differ for a while still
    neither overlap nor leave a hole.
    """
    number, count = (int(part) for part in shard.split("/"))
    return [symbol for symbol in symbols if crc32(symbol.encode()) % count == number - 1]


def spread(symbols: Sequence[str], rates: Mapping[str, float], connections: int) -> list[list[str]]:
    """Return the symbols of each connection: at most 1024 streams each, the trades a second as even as can be.

    Symbols whose rate is unknown count as the mean of the others. The busiest are placed first, each on the connection
    with the least load (longest processing time first, Graham 1969).
    """
    if not symbols:
        return []
    count = min(len(symbols), max(connections, -(-len(symbols) // MAX_STREAMS_PER_CONNECTION)))
    known = [rates[symbol] for symbol in symbols if symbol in rates]
    mean = sum(known) / len(known) if known else 1.0
    loads: list[tuple[float, int]] = [(0.0, number) for number in range(count)]
    placed: list[list[str]] = [[] for _ in range(count)]
    for symbol in sorted(symbols, key=lambda symbol: (-rates.get(symbol, mean), symbol)):
        load, number = heapq.heappop(loads)
        placed[number].append(symbol)
        if len(placed[number]) < MAX_STREAMS_PER_CONNECTION:
            heapq.heappush(loads, (load + rates.get(symbol, mean), number))
    return placed
