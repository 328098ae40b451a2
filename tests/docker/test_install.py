"""The Dockerfile's steps for our package, run in a fresh environment with the image's pins."""

from __future__ import annotations

import subprocess
from pathlib import Path

from multitask import __version__
from tests.docker.conftest import PINS, UV, Image, freeze, make_environment, run_steps


def test_no_pin_of_the_image_has_moved(image: Image) -> None:
    assert set(PINS) <= freeze(image.python)


def test_our_package_runs_in_the_images_environment(image: Image) -> None:
    done = subprocess.run(
        [image.python, "-m", "multitask", "--version"], capture_output=True, text=True, cwd="/"
    )
    assert done.stdout.strip() == f"multitask {__version__}"


def test_configurations_and_templates_are_installed_too(image: Image) -> None:
    code = "from multitask.resources import config_names; print(*config_names('clusters'))"
    done = subprocess.run([image.python, "-c", code], capture_output=True, text=True, cwd="/")
    assert "3x4-a100-80gb" in done.stdout.split()


def test_the_machines_part_can_be_started_there(image: Image) -> None:
    done = subprocess.run(
        [image.python, "-m", "multitask.machine"], capture_output=True, text=True, cwd="/", env={}
    )
    assert done.returncode == 2
    assert "MULTITASK_RUN_ID: is not set" in done.stderr


def test_the_worker_has_the_sdk_and_the_image_has_not(image: Image) -> None:
    assert any(line.startswith("runpod==") for line in freeze(image.worker))
    assert not any(line.startswith("runpod==") for line in freeze(image.python))


def test_an_image_whose_pins_cannot_stay_fails_the_build(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    uv_install = [UV, "pip", "install", "-q", "--python", str(python), "typer==0.9.4"]
    subprocess.run(uv_install, check=True)
    code, output = run_steps(tmp_path, python, skip='install.sh" user')
    assert code != 0
    assert "typer" in output
    assert "typer==0.9.4" in freeze(python)


def test_an_empty_environment_is_no_image_of_axolotls(tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "-q", str(tmp_path / "venv")], check=True)
    code, output = run_steps(tmp_path, tmp_path / "venv" / "bin" / "python")
    assert code == 1
    assert "is this Axolotl's image?" in output
