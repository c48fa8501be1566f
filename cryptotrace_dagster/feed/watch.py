"""How long a silence may last before it is a fault. Pure: counts and times in, a judgement out.

A stream that trades a hundred times a second is broken after a few silent seconds; one that trades twice an hour is
not. Trades come in clusters, so the patience is many times the mean distance, and never below a few seconds.
"""

MINIMUM_PATIENCE_SECONDS = 4.0
_MEAN_DISTANCES = 40.0  # of silence before it counts; a Poisson stream would need e^40 tries
_RATE_MEMORY_SECONDS = 60.0
_LEARNING_SECONDS = 10.0


class SilenceWatch:
    """Watches a counter that ought to grow, and learns how fast it does.

    The `patience_seconds` it is made with are the longest silence that is borne; the rate that `look` has learned
    shortens it for streams that are quick, and `trust` lengthens it for a silence that was looked into.
    """

    def __init__(self, now: float, patience_seconds: float) -> None:
        self._usual = self._longest = patience_seconds
        self._trusted = False
        self._count = 0
        self._rate = 0.0
        self._looked_at = now
        self._watched_since = now
        self.heard_at = now

    def look(self, now: float, count: int) -> None:
        """Take in the counter's state."""
        elapsed = now - self._looked_at
        if elapsed <= 0:
            return
        weight = min(1.0, elapsed / min(_RATE_MEMORY_SECONDS, max(elapsed, now - self._watched_since)))
        self._rate += weight * ((count - self._count) / elapsed - self._rate)
        if count != self._count:
            self.heard_at = now
            if self._trusted:
                self._longest, self._trusted = self._usual, False
        self._count, self._looked_at = count, now

    def forgive(self, now: float) -> None:
        """Start the silence anew: it was our own doing, or somebody has dealt with it."""
        self.heard_at = now

    def trust(self, now: float, longest_seconds: float) -> None:
        """Start the silence anew with twice the patience, up to a limit: it was looked into and is real."""
        self.forgive(now)
        self._longest = min(longest_seconds, 2 * self.patience_seconds(now))
        self._trusted = True

    @property
    def rate(self) -> float:
        """Return the counter's mean growth a second."""
        return self._rate

    def patience_seconds(self, now: float) -> float:
        """Return how long a silence is borne."""
        if now - self._watched_since < _LEARNING_SECONDS or self._rate <= 0:
            return self._longest
        if self._trusted:
            return self._longest
        return min(self._longest, max(MINIMUM_PATIENCE_SECONDS, _MEAN_DISTANCES / self._rate))

    def is_silent(self, now: float) -> bool:
        """Return whether the silence has lasted too long."""
        return now - self.heard_at > self.patience_seconds(now)
