"""Images for a machine that reaches no image registry: the same tags, made from Debian's and Maven Central's packages.

What is made once is kept in the cache folder of the test. Stays out: the product's own image, whose Dockerfile is the
same on any base.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.compose.engine import CACHE, ComposeTestError, Engine, run
from tests.kafka_server import fetch_jars

HERE = Path(__file__).parent / "standins"
PYTHON_IMAGE = "python:3.11.14-slim-bookworm"
SERVICES_IMAGE = "cryptotrace-standin:services"
POSTGRES_IMAGE = "postgres:17.6-bookworm"
KAFKA_IMAGE = "apache/kafka:4.3.1"
LABEL = "cryptotrace.standin=true"
_DEBIAN = "http://deb.debian.org/debian"


def registry_is_reached(engine: Engine) -> bool:
    """Return whether the images of docker-compose.yml can be had from where they are published."""
    images = (PYTHON_IMAGE, POSTGRES_IMAGE, KAFKA_IMAGE)
    try:
        for image in images:
            engine.docker("pull", "--quiet", image, seconds=300)
    except ComposeTestError:
        return False
    return True


def build_standins(engine: Engine, log: Path) -> list[str]:
    """Make the images that are not there yet; return the tags that are no published images."""
    if not _is_there(engine, PYTHON_IMAGE):
        packages = ["python3.11", "python3-venv", "ca-certificates"]
        _import(engine, PYTHON_IMAGE, _debian("bookworm", "python", packages, _finish_python))
    if not _is_there(engine, SERVICES_IMAGE):
        packages = ["postgresql-17", "openjdk-21-jre-headless", "ca-certificates"]
        _import(engine, SERVICES_IMAGE, _debian("trixie", "services", packages, _finish))
    with tempfile.TemporaryDirectory(prefix="cryptotrace-standins-") as folder:
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
        shutil.copytree(fetch_jars(), Path(folder) / "libs")
        for tag, name in ((POSTGRES_IMAGE, "postgres"), (KAFKA_IMAGE, "kafka")):
            engine.build(tag, Path(folder), Path(folder) / f"{name}.Dockerfile", log)
    return [PYTHON_IMAGE, SERVICES_IMAGE, POSTGRES_IMAGE, KAFKA_IMAGE]


def _is_there(engine: Engine, tag: str) -> bool:
    return bool(engine.docker("images", "--quiet", tag).strip())


def _import(engine: Engine, tag: str, archive: Path) -> None:
    engine.docker("import", "--change", f"LABEL {LABEL}", str(archive), tag)


def _debian(suite: str, name: str, packages: list[str], finish: Callable[[Path], None]) -> Path:
    """Return an archive of a small Debian with these packages."""
    archive = CACHE / f"{name}.tar"
    if archive.exists():
        return archive
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise ComposeTestError("Stand-in images need root and debootstrap: `apt-get install debootstrap`.")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cryptotrace-debian-", dir=CACHE) as folder:
        root, fresh = Path(folder) / "root", Path(folder) / "fresh.tar"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root), _DEBIAN]
        run(command, os.environ, seconds=600)
        finish(root)
        with tarfile.open(fresh, "w") as tar:
            tar.add(root, arcname=".")
        fresh.replace(archive)
    return archive


def _finish(root: Path) -> None:
    for leftover in (root / "var/cache/apt/archives").glob("*.deb"):
        leftover.unlink()
    shutil.rmtree(root / "var/lib/apt/lists")


def _finish_python(root: Path) -> None:
    """Put Python where the official image has it, and let pip trust what this machine trusts."""
    _finish(root)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    lines = ["[global]", "timeout = 180"]
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        shutil.copyfile(certificates, root / "etc/ssl/certs/ca-certificates.crt")
        lines.append("cert = /etc/ssl/certs/ca-certificates.crt")
    lines += [f"index-url = {os.environ['PIP_INDEX_URL']}"] if "PIP_INDEX_URL" in os.environ else []
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
