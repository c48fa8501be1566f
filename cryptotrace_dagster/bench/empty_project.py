"""A Dagster project with nothing in it but one empty asset, whose sensor asks for it again and again.

The floor under every pipeline on Dagster: what starts, and what a run takes, when there is no work. `dagster dev` loads
it; no other module imports it.
"""

import dagster as dg

JOB = "empty_job"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.asset
def nothing() -> None:
    """Make nothing."""


empty_job = dg.define_asset_job(JOB, selection=["nothing"])


@dg.sensor(job=empty_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def again(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run when none is under way."""
    if context.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED), limit=1):
        return dg.SkipReason("A run is still under way.")
    return dg.RunRequest()


defs = dg.Definitions(assets=[nothing], jobs=[empty_job], sensors=[again])
