"""The files for contributors: workflows and templates that GitHub accepts, versions that agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakes.ports_and_folders import ROOT

BIN = Path(sys.executable).parent
SCHEMAS = {
    ".github/workflows/tests.yml": "vendor.github-workflows",
    ".github/workflows/release.yml": "vendor.github-workflows",
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/idea.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_of_github_keeps_its_schema(name: str) -> None:
    checked = subprocess.run(
        [str(BIN / "check-jsonschema"), "--builtin-schema", SCHEMAS[name], str(ROOT / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_yaml_file_of_github_is_checked() -> None:
    found = {str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*.yml")}

    assert found == set(SCHEMAS)


def test_tests_run_on_every_python_that_the_package_names() -> None:
    classifiers = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())

    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == classifiers


def test_hooks_run_the_tools_of_the_lock() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    lock = (ROOT / "requirements.lock").read_text()

    assert all(repository["repo"] == "local" for repository in config["repos"])
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/mypy"}
    for tool in ("ruff", "mypy"):
        assert re.search(rf"^{tool}==", lock, re.MULTILINE), tool


def test_every_action_names_a_version() -> None:
    for path in (ROOT / ".github/workflows").iterdir():
        for action in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", action), (path.name, action)


def test_make_targets_that_files_name_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("CONTRIBUTING.md", ".github/workflows/tests.yml"):
        for target in re.findall(r"(?:`|\$ |sudo |run: )make ([a-z-]+)", (ROOT / name).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (name, target)
