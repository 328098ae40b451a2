"""Fine-tune one language model on many tasks with Axolotl.

The functions here do what the commands of the same name do. They are imported on first use,
so that ``import multitask`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multitask.build import build_config
    from multitask.data.prepare import prepare
    from multitask.evaluation.evaluate import evaluate
    from multitask.scoring.score import score
    from multitask.spec import load_spec

__version__ = "0.1.0"

_HOMES = {
    "load_spec": "multitask.spec",
    "prepare": "multitask.data.prepare",
    "build_config": "multitask.build",
    "evaluate": "multitask.evaluation.evaluate",
    "score": "multitask.scoring.score",
}

__all__ = ["__version__", "build_config", "evaluate", "load_spec", "prepare", "score"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'multitask' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
