"""Where the shipped data lies: ``templates/`` and ``configs/``.

In a source tree they stand beside the package; in an installed wheel inside it.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from multitask.errors import InputError, did_you_mean

_PACKAGE = Path(__file__).parent


@cache
def resource_dir(name: str) -> Path:
    """Return the folder ``templates`` or ``configs``, or a folder below them.

    Raises:
        InputError: The installation lacks it.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise InputError(
        f"the shipped folder {name!r} is missing",
        where=_PACKAGE,
        fix="install multitask again; the wheel carries it",
    )


def config_names(group: str) -> list[str]:
    """Names of the shipped configurations of a group (``clusters``, ``methods``, ``models``)."""
    return sorted(path.stem for path in resource_dir(f"configs/{group}").glob("*.yaml"))


def load_config(group: str, name: str, *, key: str) -> dict[str, Any]:
    """Read ``configs/<group>/<name>.yaml``.

    Args:
        group: ``clusters``, ``methods`` or ``models``.
        name: The file's name without its suffix.
        key: The key of the spec that asked for it, for the message.

    Raises:
        InputError: There is no such file.
    """
    names = config_names(group)
    if name not in names:
        raise InputError(
            f"unknown {key} {name!r}", where=f"key '{key}'", fix=did_you_mean(name, names)
        )
    return deepcopy(_parsed(resource_dir(f"configs/{group}") / f"{name}.yaml"))


@cache
def _parsed(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    return content
