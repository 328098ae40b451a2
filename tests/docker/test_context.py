"""What docker is given, and what the Hub's files say."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from multitask.machine.job_spec import checked_spec
from tests.docker.dockerfile import DOCKERFILE, ROOT, arguments, copied, instructions, of

HUB = ROOT / ".runpod"
INSTALLED = ("pyproject.toml", "README.md", "LICENSE", "multitask", "templates", "configs")
SECRET = ("runs/x/spec.yaml", "data/rows.csv", ".env", "multitask/.env.local", ".git/config",
          "wandb/key", "tests/test_run.py", "model/x.safetensors", "id_rsa", ".netrc")  # fmt: skip


def in_context(path: str) -> bool:
    """Whether docker sends a path: the last rule that matches it or a folder above decides."""
    names = [path, *map(str, PurePosixPath(path).parents)]
    inside = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        alternatives = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch.fnmatchcase(name, alt) for name in names for alt in alternatives):
            inside = rule.startswith("!")
    return inside


def _tracked(folder: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_what_is_copied_is_there_and_in_the_context() -> None:
    assert copied()
    for path in [*copied(), "docker/install.sh"]:
        assert (ROOT / path).is_file()
        assert in_context(path)


def test_all_files_of_the_package_are_in_the_context() -> None:
    files = [path for name in INSTALLED for path in _tracked(name)]
    assert len(files) > 200
    assert [path for path in files if not in_context(path)] == []


@pytest.mark.parametrize("path", SECRET)
def test_runs_data_and_secrets_are_not(path: str) -> None:
    assert not in_context(path)


def test_no_secret_is_built_into_the_image() -> None:
    text = DOCKERFILE.read_text()
    for word in ("TOKEN", "PASSWORD", "SECRET", "API_KEY"):
        assert word not in text


def test_the_base_is_axolotls_image_of_the_version_that_we_need() -> None:
    assert of("FROM")[0].text == "axolotlai/axolotl-cloud:${AXOLOTL_TAG}"
    assert arguments()["AXOLOTL_TAG"].startswith("0.19.")
    assert '"axolotl==0.19.*"' in (ROOT / "pyproject.toml").read_text()


def test_the_image_says_how_it_is_and_what_it_serves() -> None:
    names = [found.name for found in instructions()]
    assert {"HEALTHCHECK", "LABEL", "EXPOSE", "ENTRYPOINT"} <= set(names)
    assert of("EXPOSE")[0].text.split() == ["22", "8000", "8888"]


@pytest.mark.parametrize("program", ["hadolint", "shellcheck"])
def test_the_linters_find_nothing(program: str) -> None:
    files = [DOCKERFILE] if program == "hadolint" else sorted((ROOT / "docker").glob("*.sh"))
    linter = Path(sys.executable).parent / program
    done = subprocess.run([linter, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_hub_builds_the_same_image() -> None:
    assert (HUB / "Dockerfile").read_bytes() == DOCKERFILE.read_bytes()
    assert {"handler.py", "README.md", "hub.json", "tests.json"} <= {p.name for p in HUB.iterdir()}


def _json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HUB / name).read_text())
    return content


def test_the_hubs_listing_has_what_the_publishing_guide_asks_for() -> None:
    listing = _json("hub.json")
    assert {"title", "description", "type", "category", "config"} <= set(listing)
    assert (listing["type"], listing["category"]) == ("serverless", "language")
    config = listing["config"]
    assert {"runsOn", "containerDiskInGb", "gpuCount", "gpuIds"} <= set(config)
    for variable in config["env"]:
        assert {"key", "value"} == set(variable) or {"name", "type", "description"} <= set(
            variable["input"]
        )


def test_the_hubs_tests_are_inputs_that_the_worker_takes(tmp_path: Path) -> None:
    tests = _json("tests.json")
    assert tests["tests"]
    assert tests["config"]["gpuTypeId"]
    for test in tests["tests"]:
        assert isinstance(test["timeout"], int)
        assert checked_spec(test["input"]["spec"], tmp_path)["model"]
