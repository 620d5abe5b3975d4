"""What is installed: one list of direct dependencies, one lock, and every way of installing that goes by them."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.doctor import PYTHON_VERSIONS


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def lock(root):
    """The lines of requirements.lock as {package: requirements, one or one for each Python}."""
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def direct_dependencies(project):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    items = [Requirement(line) for group in groups for line in group]
    return [item for item in items if item.name != project["name"]]


def test_the_lock_has_every_direct_dependency_in_the_version_of_pyproject(project, lock):
    direct = direct_dependencies(project)
    assert len(direct) > 30
    for requirement in direct:
        assert [str(item.specifier) for item in lock[canonicalize_name(requirement.name)]] == [
            str(requirement.specifier)
        ], f"{requirement}: run `make lock`"


def test_the_lock_has_all_that_these_need_and_names_no_host(project, lock, root):
    """Walk through what is installed here; a package that is not is walked where it is."""
    waiting, seen = direct_dependencies(project), set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        (pinned,) = [item for item in lock[name] if item.marker is None or item.marker.evaluate()]
        (version,) = [part.version for part in pinned.specifier]
        assert wanted.specifier.contains(Version(version), prereleases=True), f"{wanted}: {version} in the lock"
        if (name, *wanted.extras) in seen:
            continue
        seen.add((name, *wanted.extras))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in map(Requirement, lines):
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if line.marker is None or any(line.marker.evaluate(extra) for extra in extras):
                waiting.append(line)
    assert len(seen) > 100
    assert not re.search(r"://| @ |--", (root / "requirements.lock").read_text(encoding="utf-8"))


def test_every_way_of_installing_goes_by_the_same_list(project, root):
    """pip, conda, Docker, the dev container and make all install requirements.txt."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-c requirements.lock", "-e ."]
    for name in ("environment.yml", "Dockerfile", "Makefile", ".devcontainer/devcontainer.json", "README.md"):
        assert "-r requirements.txt" in (root / name).read_text(encoding="utf-8"), name
    pip_part = (root / "environment.yml").read_text(encoding="utf-8").split("- pip:")[1].split()
    assert pip_part == ["-", "-r", "requirements.txt"]


def test_the_versions_of_python_are_the_same_everywhere(project, root):
    first, last = (".".join(map(str, version)) for version in PYTHON_VERSIONS)
    assert project["requires-python"] == f">={first},<3.{PYTHON_VERSIONS[1][1] + 1}"
    assert f"python={first}\n" in (root / "environment.yml").read_text(encoding="utf-8")
    workflow = (root / ".github/workflows/test.yml").read_text(encoding="utf-8")
    tested = [f'"3.{minor}"' for minor in range(PYTHON_VERSIONS[0][1], PYTHON_VERSIONS[1][1] + 1)]
    assert f"[{', '.join(tested)}]" in workflow
    assert f"Python {first} to {last}" in (root / "README.md").read_text(encoding="utf-8")
