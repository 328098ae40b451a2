"""dstack and SkyPilot, each in an environment of its own: their pins are not Axolotl's.

An environment is made once and kept under ``~/.cache/multitask-tests`` (or where
``MULTITASK_TEST_CACHE`` says), so that only the first test run pays for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = {"dstack": "dstack==0.22.5", "sky": "skypilot==0.14.1"}

_SUPPORT = Path(__file__).parent / "support"
_INSTALL = Path(__file__).parents[1] / ".ci" / "install.py"


def engine_python(engine: str) -> Path:
    """The interpreter of an engine's environment, which is made where it is missing."""
    cache = Path(os.environ.get("MULTITASK_TEST_CACHE", "~/.cache/multitask-tests")).expanduser()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = cache / f"{PACKAGES[engine].replace('==', '-')}-py{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{engine}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test runs beside this one wait for it
        if not (home / ".made").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            install = [home / "bin" / "python", _INSTALL, PACKAGES[engine]]
            subprocess.run(install, check=True, env=_plain_environment())
            (home / ".made").touch()
    return home / "bin" / "python"


def parse(engine: str, files: Sequence[Path], home: Path) -> dict[Path, dict[str, Any]]:
    """What an engine's own parser makes of files, in one process for all.

    Returns:
        For each file ``{"error": str}`` where it is refused, else what was understood.
    """
    done = subprocess.run(
        [engine_python(engine), _SUPPORT / f"parse_{engine}.py", *files],
        capture_output=True,
        text=True,
        env=_plain_environment() | {"HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {file: found[str(file)] for file in files}


def _plain_environment() -> dict[str, str]:
    """Ours without what would lead another interpreter to our packages."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
