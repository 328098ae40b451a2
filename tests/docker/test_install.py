"""The Dockerfile's steps for our package, run in a fresh environment with the image's pins."""

from __future__ import annotations

import subprocess
from pathlib import Path

from multitask import __version__
from tests.docker.conftest import PINS, UPSTREAM, UV, freeze, install, make_environment


def test_no_pin_of_the_image_has_moved(python: Path) -> None:
    assert set(PINS) <= freeze(python)


def test_our_package_runs_in_the_images_environment(python: Path) -> None:
    done = subprocess.run(
        [python, "-m", "multitask", "--version"], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.strip() == f"multitask {__version__}"


def test_configurations_and_templates_are_installed_too(python: Path) -> None:
    code = "from multitask.resources import config_names; print(*config_names('clusters'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/")
    assert "3x4-a100-80gb" in done.stdout.split()


def test_an_image_whose_pins_cannot_stay_fails_the_build(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    uv_install = [UV, "pip", "install", "-q", "--python", str(python), "typer==0.9.4"]
    subprocess.run(uv_install, check=True)
    code, output = install(python, UPSTREAM)
    assert code != 0
    assert "typer" in output
    assert "typer==0.9.4" in freeze(python)


def test_an_entrypoint_that_sources_more_than_ours_fails_the_build(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    code, output = install(python, UPSTREAM + "source /workspace/axolotl/scripts/new.sh\n")
    assert code == 1
    assert "sources /workspace/axolotl/scripts/new.sh, and docker/environment.sh does not" in output


def test_an_empty_environment_is_no_image_of_axolotls(tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "-q", str(tmp_path / "venv")], check=True)
    code, output = install(tmp_path / "venv" / "bin" / "python", UPSTREAM)
    assert code == 1
    assert "is this Axolotl's image?" in output
