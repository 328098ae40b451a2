"""The command as users start it, and a run to look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multitask.build import build_config
from multitask.checks import Check, judged
from multitask.run import Run
from multitask.spec import Spec

# What the machine that runs the tests may have set; a test sets its own.
_VARIABLES = (
    "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "HF_TOKEN",
    "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "WANDB_API_KEY",
    "WANDB_MODE", "HF_ENDPOINT",
)  # fmt: skip

_KEYS = ("group", "name", "state", "found", "fix")


@dataclass(frozen=True)
class Told:
    """What the command printed as JSON, and how it ended."""

    code: int
    record: dict[str, Any]

    def check(self, name: str) -> Check:
        """The one check of a name."""
        found = [
            judged(*(c[key] for key in _KEYS)) for c in self.record["checks"] if c["name"] == name
        ]
        assert len(found) == 1, f"{name}: {found}"
        return found[0]


Doctor = Callable[..., Told]
MakeEnvironment = Callable[..., tuple[str, Path]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """``multitask doctor ... --json`` with a home of its own and no network, unless told."""

    def call(
        *arguments: object,
        python: str = sys.executable,
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> Told:
        done = subprocess.run(
            [*prefix, python, "-m", "multitask", "doctor", *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            env=clean_environment(tmp_path) | environment,
            cwd=tmp_path,
        )
        assert done.stdout, done.stderr
        return Told(done.returncode, json.loads(done.stdout))

    return call


@pytest.fixture
def environment_without(tmp_path: Path) -> MakeEnvironment:
    """A virtual environment with all packages of this one but some."""

    def make(*missing: str) -> tuple[str, Path]:
        root = tmp_path / "environment"
        venv.create(root, symlinks=True)
        packages = next((root / "lib").glob("python*/site-packages"))
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            # The tree under test comes by PYTHONPATH, or not at all.
            left_out = path.name.startswith(missing) or "multitask" in path.name
            if not left_out and not (packages / path.name).exists():
                (packages / path.name).symlink_to(path)
        return str(root / "bin" / "python"), packages

    return make


def clean_environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    root = str(Path(__file__).parents[2])
    return kept | {
        "PYTHONPATH": root, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = Spec(
        model="owner/model", tasks=("text_claims",), cluster="cpu", method="full", sample=True
    )
    return build_config(spec, tmp_path_factory.mktemp("doctor") / "run", validate=False).run


@pytest.fixture
def built(_built: Run, tmp_path: Path) -> Run:
    """A built run, to be broken."""
    shutil.copytree(_built.root, tmp_path / "run")
    return Run(tmp_path / "run")


def named(checks: list[Check], name: str) -> Check:
    """The one check of a name."""
    found = [check for check in checks if check.question == name]
    assert len(found) == 1, checks
    return found[0]
