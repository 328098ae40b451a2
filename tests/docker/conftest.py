"""The image in small: an environment with some of its real pins, and our steps run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.dockerfile import ROOT, arguments, of

# Some of what Axolotl 0.19's image has, older than the newest so that a careless install moves it.
PINS = ["numpy==1.26.4", "pydantic==2.10.6", "pyyaml==6.0.2", "httpx==0.27.2"]

# What the entrypoint of Axolotl's cloud images sources (scripts/cloud-entrypoint.sh at commit
# 067b021c8, July 2026), in the same form.
UPSTREAM = """
    source /workspace/axolotl/scripts/cuda13_env.sh
echo 'source /etc/rp_environment' >> ~/.bashrc
"""

UV = str(Path(sys.executable).parent / "uv")  # from the package uv


def freeze(python: Path) -> set[str]:
    """Packages with their versions."""
    done = subprocess.run(
        [UV, "pip", "freeze", "--python", str(python)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines())


def install(python: Path, upstream: str) -> tuple[int, str]:
    """Run the Dockerfile's step that installs our package as docker would.

    Args:
        python: The environment of "Axolotl".
        upstream: The text of its entrypoint.

    Returns:
        The exit code, and what was said.
    """
    entrypoint = python.parents[1] / "entrypoint.sh"
    entrypoint.write_text(upstream)
    environment = {
        **os.environ,
        **arguments(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": str(python),
        "SOURCE": str(ROOT),
        "UPSTREAM": str(entrypoint),
        "EXTRAS": "report",  # the training's own packages are gigabytes
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", of("RUN")[0].text],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def make_environment(folder: Path) -> Path:
    """An environment with the pins; as in the image, without pip."""
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([UV, "pip", "install", "-q", "--python", str(python), *PINS], check=True)
    return python


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the image, built once."""
    root = tmp_path_factory.mktemp("image")
    python = make_environment(root / "workspace" / "axolotl-venv")
    code, output = install(python, UPSTREAM)
    assert code == 0, output
    return python
