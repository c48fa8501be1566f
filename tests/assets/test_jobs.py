"""The jobs as Dagster runs them: on an ephemeral instance, a real DuckDB file and librdkafka's in-process broker."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from confluent_kafka import Producer

from cryptotrace_dagster.assets import market
from cryptotrace_dagster.assets.handover import PHASE_TAG, Phase, is_followed, wants_a_live_run
from cryptotrace_dagster.assets.housekeeping import delete_runs_before
from cryptotrace_dagster.assets.live import FollowConfig
from cryptotrace_dagster.definitions import build_definitions
from cryptotrace_dagster.domain.windows import Window
from cryptotrace_dagster.pipeline.dirty import pending_dirty
from cryptotrace_dagster.pipeline.ingest import ingest_available, store_ticks
from cryptotrace_dagster.resources.exchange import ExchangeResource
from cryptotrace_dagster.resources.kafka import KafkaResource
from cryptotrace_dagster.resources.rules import AlertRules
from cryptotrace_dagster.resources.warehouse import WarehouseResource
from cryptotrace_dagster.schedules import every_10_minutes, every_15_minutes
from cryptotrace_dagster.sensors.ticks_arrived import ticks_arrived
from cryptotrace_dagster.storage import Warehouse
from tests.builders import NOON, ticks

DAY = "2026-01-05"
TABLES = ["raw_ticks", "ohlc_bars", "features", "anomaly_scores", "alerts", "alert_deliveries"]


@pytest.fixture
def producer() -> Iterator[Producer]:
    """Return a producer that hosts its own broker."""
    yield Producer({"bootstrap.servers": "replaced-by-the-cluster", "test.mock.num.brokers": 1, "log_level": 2})


@pytest.fixture
def kafka(producer: Producer) -> KafkaResource:
    """Return the resource that leads to that broker, its topic in place."""
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    producer.list_topics("ticks", timeout=10)
    return KafkaResource(bootstrap_servers=f"{broker.host}:{broker.port}", ticks_topic="ticks")


@pytest.fixture
def definitions(
    warehouse: Warehouse, kafka: KafkaResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dg.Definitions:
    """Return the product's own definitions over a warehouse and a broker of this test, and no channel to Discord."""
    for name in ("DISCORD_WEBHOOK_URL", "DISCORD_BOT_TOKEN", "DISCORD_CHANNEL_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    rules = tmp_path / "alerts.toml"
    rules.write_text('[[rules]]\nname = "above"\nkind = "price"\nabove = 105\nseverity = "warning"\n')
    return build_definitions(
        warehouse=WarehouseResource(url=warehouse.url),
        kafka=kafka,
        exchange=ExchangeResource(rest_url="http://127.0.0.1:1", dump_url="http://127.0.0.1:1"),  # nobody listens there
        alert_rules=AlertRules(path=str(rules), data_dir=str(tmp_path)),
    )


def _publish(producer: Producer, count: int, start: datetime = NOON) -> None:
    """Publish one trade a second whose price climbs from 100 by a tenth."""
    for number in range(count):
        moment_ms = int((start + timedelta(seconds=number)).replace(tzinfo=UTC).timestamp() * 1000)
        body = (
            f'{{"e":"aggTrade","E":{moment_ms},"s":"BTCUSDT","a":{number + 1},"p":"{100 + number / 10:.8f}","q":"1.00000000",'
            f'"f":{number + 1},"l":{number + 1},"T":{moment_ms},"m":false,"M":true}}'
        )
        producer.produce("ticks", body, key="BTCUSDT", timestamp=moment_ms)
    producer.flush(10)


def _count(warehouse: Warehouse, table: str) -> int:
    return int(warehouse.read(f"SELECT count(*) FROM {table}").item())


def test_the_asset_job_makes_every_stage_of_its_day_and_asks_every_check(
    definitions: dg.Definitions, producer: Producer, warehouse: Warehouse
) -> None:
    _publish(producer, 90)
    instance = dg.DagsterInstance.ephemeral()
    result = definitions.resolve_job_def("market_job").execute_in_process(
        partition_key=DAY, instance=instance, raise_on_error=False
    )
    assert result.success
    assert {
        event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key
    } == {*TABLES, "published_copy"}
    assert _count(warehouse, "raw_ticks") == 90
    assert _count(warehouse, "alerts") == 1
    evaluations = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    offline = {"bars_equal_the_exchanges_klines", "ticks_are_fresh"}  # no exchange here, and the trades are old
    assert len(evaluations) >= 10
    assert {name for name, passed in evaluations.items() if not passed} <= offline


def test_a_live_run_takes_trades_to_alerts_and_writes_every_assets_history(
    definitions: dg.Definitions, producer: Producer, warehouse: Warehouse
) -> None:
    _publish(producer, 90)
    instance = dg.DagsterInstance.ephemeral()
    result = definitions.resolve_job_def("live_job").execute_in_process(
        instance=instance,
        run_config=dg.RunConfig(
            ops={"follow_market": FollowConfig(at_least_seconds=3, quiet_seconds=2, follow_seconds=20)}
        ),
    )
    assert result.success
    assert _count(warehouse, "raw_ticks") == 90
    assert _count(warehouse, "alerts") == 1
    bars = instance.get_latest_materialization_event(dg.AssetKey("ohlc_bars"))
    assert bars is not None and bars.dagster_event is not None and bars.dagster_event.partition == DAY
    assert instance.get_latest_materialization_event(dg.AssetKey("raw_ticks")) is not None


def test_materialising_an_asset_twice_leaves_the_same_rows(
    definitions: dg.Definitions, producer: Producer, warehouse: Warehouse
) -> None:
    _publish(producer, 90)
    job = definitions.resolve_job_def("market_job")
    job.execute_in_process(partition_key=DAY, instance=dg.DagsterInstance.ephemeral())
    queries = {table: f"SELECT * FROM {table} ORDER BY ALL" for table in ("ohlc_bars", "features", "anomaly_scores")}
    before = {table: warehouse.read(query) for table, query in queries.items()}
    job.execute_in_process(partition_key=DAY, instance=dg.DagsterInstance.ephemeral())
    assert all(warehouse.read(query).equals(before[table]) for table, query in queries.items())


def test_the_sensor_asks_for_a_live_run_only_while_kafka_is_ahead(
    definitions: dg.Definitions, producer: Producer, warehouse: Warehouse, kafka: KafkaResource
) -> None:
    instance = dg.DagsterInstance.ephemeral()
    resources = {"warehouse": WarehouseResource(url=warehouse.url), "kafka": kafka}

    def evaluate() -> object:
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            return ticks_arrived(context)

    assert isinstance(evaluate(), dg.SkipReason)
    _publish(producer, 5)
    request = evaluate()
    assert isinstance(request, dg.RunRequest) and request.run_key is None
    definitions.resolve_job_def("market_job").execute_in_process(
        partition_key=DAY, instance=instance, asset_selection=[dg.AssetKey("raw_ticks")]
    )
    assert isinstance(evaluate(), dg.SkipReason)


@pytest.mark.parametrize(
    ("job", "status", "phase", "is_asked_for"),
    [
        ("market_job", dg.DagsterRunStatus.STARTED, None, True),
        ("live_job", dg.DagsterRunStatus.NOT_STARTED, None, False),
        ("live_job", dg.DagsterRunStatus.STARTED, Phase.FOLLOWING, False),
        ("live_job", dg.DagsterRunStatus.STARTED, Phase.LEAVING, True),
        ("live_job", dg.DagsterRunStatus.STARTED, Phase.GONE, True),
        ("live_job", dg.DagsterRunStatus.SUCCESS, Phase.LEAVING, True),
    ],
)
def test_a_live_run_is_asked_for_when_nobody_follows_or_he_who_does_wants_to_be_relieved(
    definitions: dg.Definitions,
    producer: Producer,
    warehouse: Warehouse,
    kafka: KafkaResource,
    job: str,
    status: dg.DagsterRunStatus,
    phase: Phase | None,
    is_asked_for: bool,
) -> None:
    _publish(producer, 5)
    instance = dg.DagsterInstance.ephemeral()
    tags = {} if phase is None else {PHASE_TAG: phase.value}
    instance.create_run_for_job(definitions.resolve_job_def(job), status=status, tags=tags)
    resources = {"warehouse": WarehouseResource(url=warehouse.url), "kafka": kafka}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        assert isinstance(ticks_arrived(context), dg.RunRequest) is is_asked_for


def test_one_live_run_relieves_the_other_and_no_trade_is_stored_twice(
    definitions: dg.Definitions, producer: Producer, warehouse: Warehouse, tmp_path: Path
) -> None:
    home = tmp_path / "dagster_home"
    home.mkdir()
    job = definitions.resolve_job_def("live_job")
    config = FollowConfig(follow_seconds=1, relief_seconds=60, at_least_seconds=60, first_report_seconds=999)
    with _instance_in(home) as instance, ThreadPoolExecutor() as runs:

        def follow(config: FollowConfig) -> dg.ExecuteInProcessResult:
            run_config = dg.RunConfig(ops={"follow_market": config})
            return job.execute_in_process(instance=instance, run_config=run_config)

        _publish(producer, 40)
        first = runs.submit(follow, config)
        _wait_until(lambda: _phases(instance) == [Phase.LEAVING])
        assert wants_a_live_run(instance) and is_followed(instance)
        second = runs.submit(follow, config.model_copy(update={"at_least_seconds": 3.0, "quiet_seconds": 2.0}))
        assert first.result(60).success
        _publish(producer, 90)  # the first forty once more
        assert second.result(60).success
        assert _phases(instance) == [Phase.GONE, Phase.GONE]
    assert _count(warehouse, "raw_ticks") == 90
    assert _count(warehouse, "alerts") == 1


def _phases(instance: dg.DagsterInstance) -> list[str | None]:
    return [run.tags.get(PHASE_TAG) for run in instance.get_runs(dg.RunsFilter(job_name="live_job"))]


def _wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("is_alive", [True, False], ids=["alive", "hung"])
def test_ticks_made_by_hand_are_left_to_the_live_run_while_it_gets_on(
    definitions: dg.Definitions,
    producer: Producer,
    warehouse: Warehouse,
    kafka: KafkaResource,
    monkeypatch: pytest.MonkeyPatch,
    is_alive: bool,
) -> None:
    monkeypatch.setattr(market, "LIVE_RUN_PATIENCE_SECONDS", 1.0)
    _publish(producer, 90)
    instance = dg.DagsterInstance.ephemeral()
    instance.create_run_for_job(
        definitions.resolve_job_def("live_job"),
        status=dg.DagsterRunStatus.STARTED,
        tags={PHASE_TAG: Phase.FOLLOWING.value},
    )
    with ThreadPoolExecutor() as others:
        if is_alive:
            others.submit(_ingest, warehouse, kafka)
        result = definitions.resolve_job_def("market_job").execute_in_process(
            partition_key=DAY, instance=instance, asset_selection=[dg.AssetKey("raw_ticks")]
        )
    (ticks_made,) = result.asset_materializations_for_node("raw_ticks")
    assert ticks_made.metadata["dagster/partition_row_count"].value == (0 if is_alive else 90)
    assert _count(warehouse, "raw_ticks") == 90


def _ingest(warehouse: Warehouse, kafka: KafkaResource) -> None:
    time.sleep(0.5)  # when the other one is already waiting
    with kafka.ticks() as stream:
        assert sum(report.stored for report in ingest_available(warehouse, stream)) == 90


def test_stale_days_of_the_past_get_runs_from_the_schedule(warehouse: Warehouse) -> None:
    late = ticks({"trade_time": datetime(2025, 6, 1, 3)})
    store_ticks(warehouse, late, NOON)
    assert pending_dirty(warehouse) == [Window(datetime(2025, 6, 1, 3), datetime(2025, 6, 1, 3, 0, 0, 1))]
    resources = {"warehouse": WarehouseResource(url=warehouse.url)}
    with dg.build_schedule_context(resources=resources, scheduled_execution_time=datetime.now(UTC)) as context:
        requests = list(every_15_minutes(context))  # type: ignore[call-overload]
    assert "2025-06-01" in {request.partition_key for request in requests}
    assert len({request.run_key for request in requests}) == len(requests)


def test_housekeeping_deletes_old_rows_and_old_runs_with_their_files(
    definitions: dg.Definitions, warehouse: Warehouse, tmp_path: Path
) -> None:
    for number, age in ((1, 40), (2, 0)):
        store_ticks(warehouse, ticks({"trade_id": number, "trade_time": NOON - timedelta(days=age)}), NOON)
    home = tmp_path / "dagster_home"
    home.mkdir()
    with _instance_in(home) as instance:
        job = definitions.resolve_job_def("housekeeping")
        first = job.execute_in_process(instance=instance)
        assert first.success
        assert _count(warehouse, "raw_ticks") == 1
        shard = home / "history" / "runs" / f"{first.run_id}.db"
        assert shard.exists()
        assert delete_runs_before(instance, datetime.now(UTC) - timedelta(days=1)) == 0
        assert delete_runs_before(instance, datetime.now(UTC)) == 1
        assert instance.get_runs() == []
        assert not shard.exists()


def _instance_in(home: Path) -> dg.DagsterInstance:
    # Two runs of one process cannot both redirect its output: the second's `tail` outlives the first's patience.
    captures_nothing = (
        "compute_logs:\n  module: dagster._core.storage.noop_compute_log_manager\n  class: NoOpComputeLogManager\n"
    )
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n" + captures_nothing)
    return dg.DagsterInstance.from_config(str(home))


def test_the_maintenance_of_a_lake_is_skipped_with_a_reason_on_a_file(tmp_path: Path) -> None:
    """A file whatever TEST_STORE asks for: on a lake there is something to maintain."""
    file = WarehouseResource(url=str(tmp_path / "cryptotrace.duckdb"))
    answer = every_10_minutes(dg.build_schedule_context(resources={"warehouse": file}))
    assert isinstance(answer, dg.SkipReason)
    assert "reuses its space" in str(answer.skip_message)


def test_bars_can_be_made_by_hand_without_a_history(definitions: dg.Definitions) -> None:
    """Guards an upstream that is optional: Dagster's UI asks "Are you sure?" while it was never materialised."""
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey("ohlc_bars")).parent_keys == {dg.AssetKey("raw_ticks")}
