"""The run launchers for many machines: their configuration files, held against the libraries' own validation.

The libraries are not part of the product's usual environment. The test brings those that `requirements-cluster.lock`
adds into .cache, once, with their hashes checked.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.compose.stack import ROOT

LOCK = ROOT / "requirements-cluster.lock"
CONFIGURATIONS = [
    ROOT / "deploy" / "celery" / "run_launcher.yaml",
    ROOT / "deploy" / "kubernetes" / "run_launcher.yaml",
]

_VALIDATE = """
import sys, yaml
from dagster import DagsterInstance
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster._serdes import ConfigurableClassData

home, = sys.argv[1:]
config, _ = dagster_instance_config(home)
launcher = config["run_launcher"]
inner = launcher["config"]["others"]
for data in (launcher, inner):
    module = __import__(data["module"], fromlist=[data["class"]])
    result = process_config(resolve_to_config_type(getattr(module, data["class"]).config_type()), data["config"])
    if not result.success:
        sys.exit("\\n".join(error.message for error in result.errors))
"""


def blocks(lock: Path) -> dict[str, str]:
    """Return the entries of a lock file by package name."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())
    return {entry.partition("==")[0].partition("[")[0]: entry for entry in entries if "==" in entry.splitlines()[0]}


@pytest.fixture(scope="module")
def libraries() -> Path:
    """Return a folder with the packages that the cluster's lock adds to the usual one."""
    usual = blocks(ROOT / "requirements.lock")
    added = "\n".join(entry for name, entry in blocks(LOCK).items() if name not in usual) + "\n"
    folder = ROOT / ".cache" / "cluster" / hashlib.sha256(added.encode()).hexdigest()[:12]
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "added.txt").write_text(added)
        command = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, "--quiet", "--no-deps"]
        command += ["--require-hashes", "--target", str(folder), "--requirement", str(folder / "added.txt")]
        subprocess.run(command, cwd=ROOT, check=True, timeout=240)  # where uv finds the project's settings
        (folder / ".complete").touch()
    return folder


def validated(libraries: Path, home: Path, launcher: object) -> subprocess.CompletedProcess[str]:
    """Return what the libraries say of a Dagster home with this launcher."""
    config = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    (home / "dagster.yaml").write_text(yaml.safe_dump(config | {"run_launcher": launcher}))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{libraries}"}
    environment |= {"CELERY_BROKER_URL": "amqp://broker", "CELERY_RESULT_BACKEND": "rpc://"}
    environment |= {"DAGSTER_POSTGRES_URL": "postgresql://cryptotrace@postgres/dagster"}
    command = [sys.executable, "-c", _VALIDATE, str(home)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.parent.name)
def test_the_configuration_is_valid(libraries: Path, tmp_path: Path, file: Path) -> None:
    done = validated(libraries, tmp_path, yaml.safe_load(file.read_text())["run_launcher"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.parent.name)
def test_a_misspelt_option_is_found(libraries: Path, tmp_path: Path, file: Path) -> None:
    """Guards a validation that would accept anything."""
    launcher = yaml.safe_load(file.read_text())["run_launcher"]
    launcher["config"]["others"]["config"]["no_such_option"] = True
    done = validated(libraries, tmp_path, launcher)
    assert done.returncode != 0
    assert "no_such_option" in done.stderr


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.parent.name)
def test_the_live_run_stays_in_the_code_server(file: Path) -> None:
    launcher = yaml.safe_load(file.read_text())["run_launcher"]
    assert launcher["class"] == "FastPathRunLauncher"
    assert launcher["config"]["code_server_jobs"] == ["live_job"]
