"""A real Apache Kafka on loopback, in KRaft mode, for the tests that must not be satisfied with a stand-in.

`python -m tests.kafka_server -- COMMAND...` fetches the broker by its own coordinates (once, into .cache), starts it on
a free port, runs the command with KAFKA_REAL_BOOTSTRAP_SERVERS set, and ends the broker with it. Needs Java 17 or newer
and Maven.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
POM = ROOT / "tests" / "kafka" / "pom.xml"
JARS = ROOT / ".cache" / "kafka"
ADDRESS_VARIABLE = "KAFKA_REAL_BOOTSTRAP_SERVERS"
_OLDEST_JAVA = 17
_START_SECONDS = 90

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/log
num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class KafkaServerError(Exception):
    """A real Kafka cannot be had on this machine; the message says what is missing."""


@contextmanager
def real_kafka(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a fresh single-node Kafka in the folder while the block lasts, and lend its bootstrap address."""
    port = port or free_port()
    format_storage(folder, port)
    server = start_server(folder, port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def format_storage(folder: Path, port: int) -> None:
    """Prepare the folder of a new single-node cluster that will listen on the port."""
    properties = folder / "server.properties"
    properties.write_text(_PROPERTIES.format(port=port, controller_port=free_port(), folder=folder))
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    subprocess.run(
        # With the sign of equality, for an id in 64 begins with a hyphen and would be taken for an option.
        [*_java(), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(properties)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def start_server(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start the broker over its folder, new or left behind by a killed one, and wait until it answers."""
    log_path = folder / "kafka.log"
    with log_path.open("ab") as log:
        command = [*_java(), "kafka.Kafka", str(folder / "server.properties")]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_it_answers(server, port, log_path)
    except BaseException:
        server.kill()
        server.wait()
        raise
    return server


def _java() -> list[str]:
    return ["java", "-Xmx512m", "-cp", f"{fetch_jars()}/*"]


def fetch_jars() -> Path:
    """Bring the broker's files into .cache, once, and return their folder."""
    _check_tools()
    complete = JARS / ".complete"
    if complete.exists() and complete.read_text() == POM.read_text():
        return JARS
    shutil.rmtree(JARS, ignore_errors=True)
    done = subprocess.run(
        [
            *("mvn", "--batch-mode", "--quiet", "--file", str(POM), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={JARS}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise KafkaServerError(f"Maven could not bring Apache Kafka: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    complete.write_text(POM.read_text())
    return JARS


def _check_tools() -> None:
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing:
        raise KafkaServerError(
            f"Missing on this machine: {', '.join(missing)}. Install Java {_OLDEST_JAVA} or newer and Maven "
            "(on Debian: apt-get install openjdk-17-jre-headless maven)."
        )
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < _OLDEST_JAVA:
        raise KafkaServerError(f"Apache Kafka 4 needs Java {_OLDEST_JAVA} or newer; found: {said.splitlines()[0]}")


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, log_path: Path) -> None:
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if client.list_topics(timeout=2).brokers:
                return
        except KafkaException:
            continue  # not listening yet
    raise KafkaServerError(f"Apache Kafka did not start: {log_path.read_text(errors='replace')[-3000:]}")


def main(command: list[str]) -> int:
    """Run the command beside a real Kafka and return its exit code."""
    with tempfile.TemporaryDirectory() as folder, real_kafka(Path(folder)) as address:
        print(f"Apache Kafka listens on {address}", flush=True)
        return subprocess.run(command, env=os.environ | {ADDRESS_VARIABLE: address}, check=False).returncode


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        sys.exit(main(arguments[1:] if arguments[:1] == ["--"] else arguments))
    except KafkaServerError as error:
        sys.exit(f"kafka_server: {error}")
