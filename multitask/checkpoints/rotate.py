"""Which checkpoints may be removed.

The trainer's own rotation counts folders by their time of change, complete or not; three torn
ones in a row would push the last good one out. This one counts complete ones alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from multitask.checkpoints.inventory import list_checkpoints

_REMOVING = ".removing-"
_SAFE = 2


def rotate(model_dir: Path, keep: int | None, *, protect: Collection[str] = ()) -> list[str]:
    """Remove complete checkpoints that are older than the newest ones.

    Nothing is removed before two complete ones exist, and the newest two always stay. Torn ones,
    set aside or not, are the user's to remove. A folder is renamed before it is deleted, so that
    a crash in between leaves no half checkpoint.

    Args:
        model_dir: Axolotl's output directory.
        keep: Complete checkpoints to keep, two at least; None keeps all.
        protect: Names of checkpoints that stay, such as the best one.

    Returns:
        Names of what was removed.
    """
    complete = [c.path for c in list_checkpoints(model_dir) if c.complete]
    for left in model_dir.glob(f"{_REMOVING}*"):
        shutil.rmtree(left, ignore_errors=True)
    if len(complete) < _SAFE:
        return []
    old = [] if keep is None else complete[: -max(keep, _SAFE)]
    removed = []
    for path in (path for path in old if path.name not in protect):
        hidden = path.rename(path.with_name(f"{_REMOVING}{path.name}"))
        shutil.rmtree(hidden, ignore_errors=True)
        removed.append(path.name)
    return removed
