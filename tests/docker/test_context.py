"""What docker is given."""

from __future__ import annotations

import fnmatch
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from multitask.runners.axolotl.kernels import REPOSITORY
from tests.docker.dockerfile import DOCKERFILE, ROOT, arguments, copied, of

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
    assert len(files) > 100
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


def test_the_image_serves_ssh_and_jupyter_where_runpods_templates_do() -> None:
    assert of("EXPOSE")[0].text.split() == ["22", "8888"]


def test_the_kernel_of_the_image_is_found_outside_the_volume() -> None:
    variables = dict(word.split("=", 1) for found in of("ENV") for word in shlex.split(found.text))
    repository, folder = variables["LOCAL_KERNELS"].split("=")
    assert repository == REPOSITORY
    assert not folder.startswith("/workspace")
    assert of("RUN")[1].text.endswith(f"-m multitask.runners.axolotl.kernels fetch {folder}")
    assert variables["BASH_ENV"] == "/opt/multitask/bin/environment.sh"


@pytest.mark.parametrize("program", ["hadolint", "shellcheck"])
def test_the_linters_find_nothing(program: str) -> None:
    files = (
        [DOCKERFILE] if program == "hadolint" else ["-x", *sorted((ROOT / "docker").glob("*.sh"))]
    )
    linter = Path(sys.executable).parent / program
    done = subprocess.run([linter, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
