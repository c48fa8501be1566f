"""`make compose-test`: the whole compose file on a Docker engine, from the building of the image to its end.

What has to come out: every service healthy; the gate before Docker's socket refuses what it must; a run in a container
of its own ends with SUCCESS; an alert arrives; broker, daemon, database and code server are killed in turn, and no
trade is missing, lost or doubled; a backup is taken and restored into an empty project; nothing stays behind.
The last line is a JSON summary.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.compose.engine import ComposeTestError, Engine, docker_engine
from tests.compose.stack import ROOT, Stack, ask, wait_for
from tests.compose.standins import build_standins, registry_is_reached

PRODUCT_IMAGE = "cryptotrace:compose-test"
SETTINGS = {
    "CRYPTOTRACE_VERSION": "compose-test",
    "SYMBOLS": "BTCUSDT,ETHUSDT",
    "DEMO_TRADES_PER_SECOND": "40",
    "DEMO_SCRIPT": "",  # the test makes its own events
}
KILLED = ("kafka", "dagster-daemon", "postgres", "code-location")
HEALTHY_SECONDS = 300
TRADES_SECONDS = 300  # after a kill: until new trades are in the warehouse
RUN_SECONDS = 400
ALERT_SECONDS = 240
PAGE = 20_000

_LAUNCH = """
mutation($execution: ExecutionParams!) {
  launchPipelineExecution(executionParams: $execution) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
_RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"


class Report:
    """What was seen, and how long each step took."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Tell that a step begins, and time it."""
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"    {self.seconds[name]} s", flush=True)

    def note(self, **facts: Any) -> None:
        """Keep facts for the summary, and print them."""
        self.seen |= facts
        print("    " + json.dumps(facts), flush=True)


def build_images(engine: Engine, folder: Path, report: Report) -> list[str]:
    """Make the product's image; return the tags of the stand-ins that took the place of published images."""
    with report.step("base images"):
        standins = [] if registry_is_reached(engine) else build_standins(engine, folder / "build.log")
        report.note(standins=standins)
    with report.step("product image"):
        engine.build(PRODUCT_IMAGE, ROOT, ROOT / "Dockerfile", folder / "build.log")
    return standins


def check_gate(stack: Stack, report: Report) -> None:
    """Ask the gate, from where the launcher asks, for what nobody but root on the host may have."""
    asked = {
        "GET /containers/json": None,
        "GET /images/json": None,
        "POST /containers/create": {"Image": PRODUCT_IMAGE, "HostConfig": {"Binds": ["/:/host"], "Privileged": True}},
        f"GET /containers/{stack.container('postgres')}/json": None,
        f"POST /containers/{stack.container('postgres')}/stop": {},
    }
    script = (
        "import json, sys, http.client\n"
        "for door, body in json.loads(sys.argv[1]).items():\n"
        "    method, path = door.split()\n"
        "    gate = http.client.HTTPConnection('socket-gate', 2375, timeout=30)\n"
        "    gate.request(method, path, None if body is None else json.dumps(body))\n"
        "    print(gate.getresponse().status)\n"
    )
    answers = stack.execute("dagster-daemon", "python", "-c", script, json.dumps(asked)).split()
    if answers != ["403"] * len(asked):
        raise ComposeTestError(f"The gate let something through: {dict(zip(asked, answers, strict=True))}")
    report.note(gate_refused=len(asked))


def materialise(stack: Stack, report: Report) -> None:
    """Launch today's partition of the asset job and see it succeed in a container of its own."""
    today = datetime.now(UTC).date().isoformat()
    selector = {"repositoryLocationName": "cryptotrace", "repositoryName": "__repository__", "jobName": "market_job"}
    execution = {
        "selector": selector,
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": today}]},
    }
    launched = stack.graphql(_LAUNCH, execution=execution)["launchPipelineExecution"]
    if launched["__typename"] != "LaunchRunSuccess":
        raise ComposeTestError(f"Dagster did not launch the run: {launched}")
    run_id = launched["run"]["runId"]
    was_in_a_container = False

    def finished() -> dict[str, Any] | None:
        nonlocal was_in_a_container
        was_in_a_container = was_in_a_container or bool(stack.run_containers())
        found: dict[str, Any] = stack.graphql(_RUN, id=run_id)["runOrError"]
        return found if found["status"] in {"SUCCESS", "FAILURE", "CANCELED"} else None

    run = wait_for(finished, RUN_SECONDS, f"run {run_id} finished", stack.logs)
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    if run["status"] != "SUCCESS" or not was_in_a_container or "docker/container_id" not in tags:
        raise ComposeTestError(f"Run {run_id} in a container: {run}, container seen: {was_in_a_container}")
    wait_for(lambda: not stack.run_containers(), 60, "the run's container removed itself")
    report.note(run_status=run["status"], run_container=tags["docker/container_id"][:12])


def see_an_alert(stack: Stack, report: Report) -> None:
    """Let a market crash, and wait for the message."""
    url = stack.address("DEMO_RECEIVER_PORT", "/_control/messages")
    before = len(ask(url))
    event = {"kind": "crash", "symbol": "BTCUSDT", "gain": 0.12, "rise_seconds": 10.0}
    began = time.monotonic()
    ask(stack.address("DEMO_EXCHANGE_PORT", "/_control/event"), event)

    def told() -> str | None:
        titles = [message["embeds"][0]["title"] for message in ask(url)[before:] if message["embeds"]]
        return next((title for title in titles if "BTCUSDT" in title), None)

    title = wait_for(told, ALERT_SECONDS, "an alert about the crash", stack.logs)
    report.note(alert=title, alert_seconds_after_the_crash_began=round(time.monotonic() - began, 1))


def ask_the_doctor(stack: Stack, report: Report) -> None:
    """Let `cryptotrace doctor` look at every part from the inside, once the first published copy can be there."""
    said = stack.script("status")
    faults = [line for line in said.splitlines() if line.startswith("✗")]
    if faults or "✓  services" not in said:
        raise ComposeTestError(f"The doctor found faults:\n{said}")
    report.note(doctor_faults=len(faults))


def trades_stored(stack: Stack) -> int:
    """Return how many trades the warehouse holds."""
    return int(stack.rows("SELECT count(*) AS n FROM raw_ticks")[0]["n"])


def kill_in_turn(stack: Stack, report: Report) -> None:
    """Kill each of the vital services; each time the system has to come back by itself and take in new trades."""
    for service in KILLED:
        with report.step(f"kill {service}"):
            stack.kill(service)
            began = time.monotonic()
            time.sleep(5)
            before = wait_for(
                lambda: trades_stored(stack), TRADES_SECONDS, f"the warehouse after {service}", stack.logs
            )
            wait_for(
                lambda before=before: trades_stored(stack) > before + 100,  # type: ignore[misc]
                TRADES_SECONDS,
                f"new trades in the warehouse after {service} was killed",
                stack.logs,
            )
            report.note(**{f"{service}_back_after_seconds": round(time.monotonic() - began, 1)})
    stack.wait_until_healthy(HEALTHY_SECONDS)


def compare_trades(stack: Stack, report: Report) -> None:
    """Stop the market, and hold the warehouse against the exchange's own account, trade by trade."""
    sent = ask(stack.address("DEMO_EXCHANGE_PORT", "/_control/stop"), {})["symbols"]
    expected = {symbol: (heard["first_heard_id"], heard["last_id"]) for symbol, heard in sent.items()}

    def complete() -> bool:
        rows = stack.rows("SELECT symbol, max(trade_id) AS newest FROM raw_ticks GROUP BY symbol")
        return {row["symbol"]: int(row["newest"]) for row in rows} == {s: last for s, (_, last) in expected.items()}

    wait_for(complete, TRADES_SECONDS, "the last trades in the warehouse", stack.logs)
    time.sleep(5)  # gaps still being filled would show as missing otherwise
    missing = doubled = differing = compared = 0
    for symbol, (first, last) in expected.items():
        theirs = exchange_trades(stack, symbol, first, last)
        sql = f"SELECT trade_id, price, quantity FROM raw_ticks WHERE symbol = '{symbol}' AND trade_id >= {first}"
        ours = [(int(row["trade_id"]), float(row["price"]), float(row["quantity"])) for row in stack.rows(sql)]
        kept = {trade_id: (price, quantity) for trade_id, price, quantity in ours}
        missing += sum(trade_id not in kept for trade_id in theirs)
        doubled += len(ours) - len(kept)
        differing += sum(trade_id in kept and kept[trade_id] != values for trade_id, values in theirs.items())
        compared += len(theirs)
    report.note(trades_compared=compared, trades_missing=missing, trades_doubled=doubled, trades_differing=differing)
    if missing or doubled or differing or not compared:
        raise ComposeTestError(f"Of {compared} trades {missing} are missing, {doubled} doubled, {differing} differ.")


def exchange_trades(stack: Stack, symbol: str, first: int, last: int) -> dict[int, tuple[float, float]]:
    """Return price and quantity of the exchange's trades by id."""
    trades: dict[int, tuple[float, float]] = {}
    while first <= last:
        path = f"/_control/trades?symbol={symbol}&from_id={first}&limit={PAGE}"
        page = ask(stack.address("DEMO_EXCHANGE_PORT", path))
        if not page:
            break
        trades |= {trade["a"]: (float(trade["p"]), float(trade["q"])) for trade in page if trade["a"] <= last}
        first = page[-1]["a"] + 1
    return trades


def back_up_wipe_and_restore(stack: Stack, folder: Path, report: Report) -> None:
    """Take a backup, throw the project away, and restore into an empty one: counts and trade ids have to be the same."""
    file = Path(stack.script("backup", str(folder / "backups")).strip())
    held = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))
    stack.down()
    restored = json.loads(stack.script("restore", str(file)).splitlines()[-1])
    for what in ("rows", "trade_ids"):
        if held[what] != restored[what]:
            raise ComposeTestError(f"The restored {what} differ: {held[what]} before, {restored[what]} after.")
    if not held["rows"]["raw_ticks"]:
        raise ComposeTestError("The backup holds no trade.")
    report.note(backup_megabytes=round(file.stat().st_size / 1e6, 1), restored_trades=restored["rows"]["raw_ticks"])


def check_everything(engine: Engine, folder: Path, report: Report) -> None:
    """Run all the steps on a project of its own, and end it."""
    standins = build_images(engine, folder, report)
    name = f"cryptotrace-test-{os.getpid()}"
    stack = Stack(engine, name, folder, SETTINGS, has_standins=bool(standins))
    with ExitStack() as guards:
        if engine.is_own:  # its images are a cache that nobody else sees; what a newer build replaced may go
            guards.callback(engine.docker, "image", "prune", "--force", check=False)
        else:
            guards.callback(engine.docker, "rmi", PRODUCT_IMAGE, *standins, check=False)
        guards.callback(stack.down)
        with report.step("up"):
            stack.script("start")
            report.note(healthy=sorted(stack.wait_until_healthy(HEALTHY_SECONDS)))
        with report.step("gate"):
            check_gate(stack, report)
        with report.step("first trades"):
            wait_for(lambda: trades_stored(stack) > 100, TRADES_SECONDS, "first trades in the warehouse", stack.logs)
        with report.step("alert"):
            see_an_alert(stack, report)
        with report.step("run in a container"):
            materialise(stack, report)
        with report.step("doctor"):
            ask_the_doctor(stack, report)
        kill_in_turn(stack, report)
        with report.step("compare trades"):
            compare_trades(stack, report)
        with report.step("back up, wipe, restore"):
            back_up_wipe_and_restore(stack, folder, report)
    with report.step("nothing left"):
        leftovers = stack.leftovers()
        if leftovers:
            raise ComposeTestError(f"Left behind: {leftovers}")


def main() -> int:
    """Run the test, print the summary, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs (default: one that is removed)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    report, began = Report(), time.monotonic()
    with ExitStack() as guards:
        folder = arguments.logs or Path(
            guards.enter_context(tempfile.TemporaryDirectory(prefix="cryptotrace-compose-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        engine = guards.enter_context(docker_engine())
        problem = ""
        try:
            check_everything(engine, folder, report)
        except ComposeTestError as error:
            problem = str(error)
            print(f"FAILED: {problem}", file=sys.stderr, flush=True)
    took = round(time.monotonic() - began, 1)
    print(json.dumps({"ok": not problem, "took_seconds": took, **report.seen, "steps": report.seconds}), flush=True)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
