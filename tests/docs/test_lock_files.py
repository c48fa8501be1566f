"""The lock files fit pyproject.toml, name a hash for everything and no host. Needs no network."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROJECT_BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
LOCK_FILES = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-install.lock",
    "requirements-cluster.lock",
    "deploy/build.lock",
)


def pins(name: str) -> dict[str, set[Version]]:
    """Return the versions that a lock file pins, by package; one package may have one per platform."""
    found: dict[str, set[Version]] = {}
    for pin in requirements_of(name):
        (version,) = pin.specifier
        found.setdefault(canonicalize_name(pin.name), set()).add(Version(version.version))
    return found


def requirements_of(name: str) -> list[Requirement]:
    """Return the requirements that a lock file consists of, each one a pin."""
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line.removesuffix("\\").strip()) for line in lines if re.match(r"[A-Za-z0-9]", line)]


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["dependencies"]),
        ("requirements-dev.lock", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]),
        ("requirements-cluster.lock", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cluster"]),
        ("deploy/build.lock", PROJECT_BUILD["requires"]),
        (
            "requirements-install.lock",
            [line for line in (ROOT / "requirements-install.in").read_text().splitlines() if not line.startswith("#")],
        ),
    ],
)
def test_every_dependency_is_locked_at_a_version_that_is_allowed(lock: str, wanted: list[str]) -> None:
    """Guards a dependency that was added or tightened without `make lock`."""
    locked = pins(lock)
    for text in wanted:
        requirement = Requirement(text)
        versions = locked.get(canonicalize_name(requirement.name), set())
        assert versions, f"{lock} lacks {requirement.name}: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{lock}: {text}, has {versions}"


@pytest.mark.parametrize("lock", ["requirements-dev.lock", "requirements-cluster.lock"])
def test_tests_and_clusters_run_with_the_versions_that_users_get(lock: str) -> None:
    users, others = pins("requirements.lock"), pins(lock)
    assert {name: others.get(name) for name in users} == users


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_package_that_is_wanted_with_an_extra_is_pinned_with_it(lock: str) -> None:
    """Guards pip, which does not take `gql==4` for a pin of `gql[requests]` once it checks hashes; uv does."""
    pinned = {requirement.name: requirement.extras for requirement in requirements_of(lock)}
    for name in pinned:
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        for requirement in map(Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                missing = requirement.extras - pinned.get(canonicalize_name(requirement.name), set())
                assert not missing, f"{lock}: {name} wants {requirement}; lock it with its extras"


@pytest.mark.parametrize("lock", LOCK_FILES)
def test_every_pin_has_hashes_and_no_host_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        if "==" in block.splitlines()[0]:
            assert "--hash=sha256:" in block, block.splitlines()[0]
