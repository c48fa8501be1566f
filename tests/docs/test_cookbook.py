"""Every command of the cookbook runs, and answers."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from cryptotrace_dagster.api.app import create_app
from cryptotrace_dagster.domain.windows import utc_now
from cryptotrace_dagster.settings import Settings
from cryptotrace_dagster.storage import Warehouse
from tests.market import fill

COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook.md"
ALLOWED_EXIT_CODES = {"doctor": {0, 1}, "events": {28}}  # 28: curl's --max-time is over, as the page says


def blocks() -> list[tuple[str, str, str]]:
    """Return heading, language and text of each block."""
    found = []
    for part in COOKBOOK.read_text().split("\n## ")[1:]:
        heading = part.splitlines()[0]
        found += [(heading, *block) for block in re.findall(r"```(sh|python)\n(.*?)```", part, re.DOTALL)]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment of a shell beside a filled store and its API."""
    folder = tmp_path_factory.mktemp("data")
    store = Warehouse(str(folder / "cryptotrace.duckdb"))
    store.create()
    fill(store, end=utc_now(), minutes=60)
    store.publish(folder / "published" / "cryptotrace.duckdb")
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Settings(_env_file=None), store), port=0, log_level="error", timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "DATA_DIR": str(folder),
        "COLUMNS": "160",
        "PORT": str(port),
    }
    server.should_exit = True
    thread.join(10)


def test_there_are_fifteen_questions() -> None:
    headings = re.findall(r"^## (\d+)\. ", COOKBOOK.read_text(), re.MULTILINE)
    assert headings == [str(number) for number in range(1, 16)]
    assert len(blocks()) >= 15


@pytest.mark.parametrize(("heading", "language", "text"), blocks(), ids=[block[0] for block in blocks()])
def test_the_answer_can_be_pasted(
    environment: dict[str, str], tmp_path: Path, heading: str, language: str, text: str
) -> None:
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{environment['PORT']}")
    command = [sys.executable, "-c", text] if language == "python" else ["sh", "-ec", text]
    outcome = subprocess.run(
        command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    allowed = next((codes for word, codes in ALLOWED_EXIT_CODES.items() if word in text), {0})
    assert outcome.returncode in allowed, outcome.stderr
    written = [path for path in tmp_path.iterdir() if path.stat().st_size > 100]
    assert outcome.stdout.strip() or written
