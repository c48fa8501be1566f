"""When the feed may connect again: the exchange's budget of attempts, and full-jitter back-off.

Owns the small file that carries the budget across restarts, so that a crash loop cannot burn it. Stays out: sockets.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import structlog

WINDOW_SECONDS = 300.0
ATTEMPTS_A_WINDOW = 300  # per IP address, by the exchange's rules
_SHARE = 0.8  # other programs behind the same address connect too
_FIRST_CAP_SECONDS, _LAST_CAP_SECONDS = 0.5, 30.0
_LOG = structlog.get_logger(__name__)


class AttemptBudget:
    """The connection attempts of the last five minutes, kept in a file."""

    def __init__(self, path: Path, shards: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._limit = max(1, int(ATTEMPTS_A_WINDOW * _SHARE) // shards)
        self._attempts = self._read()

    def wait_seconds(self) -> float:
        """Return how long to wait until another attempt is allowed."""
        self._forget_old()
        if len(self._attempts) < self._limit:
            return 0.0
        return self._attempts[-self._limit] + WINDOW_SECONDS - self._clock()

    def spend(self) -> None:
        """Count an attempt, on disk before it is made; on a full disk in memory alone, for trades go on meanwhile."""
        self._forget_old()
        self._attempts.append(self._clock())
        fresh = self._path.with_suffix(".tmp")
        try:
            fresh.write_text(json.dumps(self._attempts))
            fresh.replace(self._path)
        except OSError as error:
            _LOG.warning("feed.attempts_not_written", path=str(self._path), reason=str(error))

    def _forget_old(self) -> None:
        now = self._clock()
        # A clock that was set back leaves attempts in the future, which would block for ever.
        self._attempts = [at for at in self._attempts if now - WINDOW_SECONDS < at <= now]

    def _read(self) -> list[float]:
        try:
            return sorted(float(at) for at in json.loads(self._path.read_text()))
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            _LOG.warning("feed.attempts_unreadable", path=str(self._path), reason=str(error))
            return []


def backoff_seconds(failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return a wait before the next attempt: uniform up to a cap that doubles with every failure (full jitter)."""
    return uniform(0.0, min(_LAST_CAP_SECONDS, _FIRST_CAP_SECONDS * 2.0 ** min(failures, 16)))
