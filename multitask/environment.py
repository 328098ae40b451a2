"""What a number was made with: versions, the commit of multitask, and the GPUs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "multitask",
    "axolotl",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "deepspeed",
    "bitsandbytes",
    "flash-attn",
    "numpy",
    "scikit-learn",
)
"""Those whose version can change a result."""

_GIT_SECONDS = 10


def environment() -> dict[str, Any]:
    """Versions, commit and GPUs of this process, as written to logs and results.

    Returns:
        ``versions`` by package, with ``python``; ``commit`` of multitask, ``null`` where it is
        not known, ending in ``+changes`` where its checkout has others; and ``gpus``, the name of
        each that torch sees, empty where torch is not loaded.
    """
    return {"versions": versions(), "commit": commit(), "gpus": gpus()}


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if "multitask" not in found:
        from multitask import __version__

        found["multitask"] = __version__
    return found


def versions() -> dict[str, str]:
    """Versions of the installed packages of :data:`PACKAGES`, and of Python."""
    return dict(_versions())


@cache
def commit() -> str | None:
    """The commit of multitask: of the checkout it runs from, or that pip installed it from."""
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists() and (root / "pyproject.toml").is_file():
        return _of_checkout(root)
    try:
        text = distribution("multitask").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    found = json.loads(text).get("vcs_info", {}).get("commit_id") if text else None
    return None if found is None else str(found)


def _of_checkout(root: Path) -> str | None:
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if changes else head


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; None without git, or where it does not trust the folder."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def gpus() -> list[str]:
    """Names of the GPUs that torch sees; none where torch has not been imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
