"""How one live run follows another without a gap: each says in a tag of its run how far it is, and reads the other's.

Starting a run takes seconds, so the next one starts while the present one still follows the stream; when it stands ready
the present one leaves. Two at once would do no harm (ADR 14), hence nobody waits for a run that never answers.
"""

import time
from collections.abc import Sequence
from enum import StrEnum

import dagster as dg
import structlog

from cryptotrace_dagster.assets.common import LIVE_JOB

PHASE_TAG = "cryptotrace/phase"
UNDER_WAY = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
UNFINISHED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *UNDER_WAY]
_LOOKS_AGAIN_AFTER = 0.2

log = structlog.get_logger(__name__)


class Phase(StrEnum):
    """How far a live run is."""

    READY = "ready"  # everything is loaded; it follows as soon as nobody else does
    FOLLOWING = "following"
    LEAVING = "leaving"  # it still follows, and wants to be relieved
    GONE = "gone"  # it follows no longer, and only writes down what it has done


class LiveRun:
    """The side of one live run."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id

    def say(self, phase: Phase) -> None:
        """Tell the others how far this run is."""
        self._instance.add_run_tags(self._run_id, {PHASE_TAG: phase.value})

    def wait_for_its_turn(self, patience_seconds: float) -> None:
        """Wait until no live run that is older than this one follows the stream; at most so long."""
        self.say(Phase.READY)
        deadline = time.monotonic() + patience_seconds
        while self._is_preceded():
            if time.monotonic() > deadline:
                log.warning("live_run.predecessor_stays", seconds=patience_seconds)
                break
            time.sleep(_LOOKS_AGAIN_AFTER)
        self.say(Phase.FOLLOWING)

    def is_relieved(self) -> bool:
        """Return whether another live run stands ready to follow the stream."""
        others = _live_runs(self._instance, UNDER_WAY)
        return any(run.run_id != self._run_id and _phase(run) == Phase.READY for run in others)

    def _is_preceded(self) -> bool:
        runs = _live_runs(self._instance, UNDER_WAY)  # the newest first
        place = next((number for number, run in enumerate(runs) if run.run_id == self._run_id), len(runs))
        return any(_phase(run) != Phase.GONE for run in runs[place + 1 :])


def wants_a_live_run(instance: dg.DagsterInstance) -> bool:
    """Return whether nobody follows the stream, or he who does wants to be relieved."""
    return all(_phase(run) in (Phase.LEAVING, Phase.GONE) for run in _live_runs(instance, UNFINISHED))


def is_followed(instance: dg.DagsterInstance) -> bool:
    """Return whether a live run follows the stream."""
    return any(_phase(run) in (Phase.FOLLOWING, Phase.LEAVING) for run in _live_runs(instance, UNDER_WAY))


def _live_runs(instance: dg.DagsterInstance, statuses: Sequence[dg.DagsterRunStatus]) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=list(statuses)), limit=10)


def _phase(run: dg.DagsterRun) -> str | None:
    return run.tags.get(PHASE_TAG)
