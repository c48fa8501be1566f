"""The containers' health checks against real servers on loopback."""

import http.server
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cryptotrace_dagster.containers.health import is_healthy
from tests.ports import free_port
from tests.postgres_server import PostgresServer


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_service_is_healthy_when_it_answers_with_success(web_server: str) -> None:
    assert is_healthy(f"{web_server}/healthz")
    assert not is_healthy(f"{web_server}/sick")
    assert not is_healthy(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(health_pb2.HealthCheckResponse.SERVING, True), (health_pb2.HealthCheckResponse.NOT_SERVING, False)],
)
def test_a_code_server_is_healthy_when_it_says_that_it_serves(status: int, expected: bool) -> None:
    servicer = health.HealthServicer()
    servicer.set("DagsterApi", status)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert is_healthy(f"grpc://127.0.0.1:{port}") is expected
    finally:
        server.stop(0)


def test_a_code_server_that_is_not_there_is_not_healthy() -> None:
    assert not is_healthy(f"grpc://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("ages_seconds", "expected"), [([5, 40], True), ([5, 4000], False), ([], False)], ids=["fresh", "one stuck", "none"]
)
def test_the_daemon_is_healthy_while_each_of_its_loops_is_heard_of(
    postgres: PostgresServer, ages_seconds: list[int], expected: bool
) -> None:
    postgres.create_database("storage")
    try:
        postgres.sql("CREATE TABLE daemon_heartbeats (daemon_type text, timestamp timestamp)", "storage")
        for age in ages_seconds:
            heard = f"now() AT TIME ZONE 'utc' - interval '{age} seconds'"
            postgres.sql(f"INSERT INTO daemon_heartbeats SELECT 'LOOP{age}', {heard}", "storage")
        address = f"postgresql://postgres@127.0.0.1:{postgres.port}/storage"
        assert is_healthy(address) is expected
    finally:
        postgres.sql("DROP DATABASE storage")


def test_a_daemon_whose_storage_is_not_there_is_not_healthy() -> None:
    assert not is_healthy(f"postgresql://nobody@127.0.0.1:{free_port()}/storage")
