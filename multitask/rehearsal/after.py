"""Checks of what a rehearsal's training left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multitask.checkpoints import list_checkpoints
from multitask.rehearsal.adapt import Sizes
from multitask.rehearsal.checklist import Checklist, fail
from multitask.rehearsal.record import evaluated
from multitask.run import Run

_QUESTIONS = 20


def check_checkpoints(
    checks: Checklist, run: Run, config: Mapping[str, Any], *, ranks: int, sizes: Sizes
) -> None:
    """Check completeness, rotation, sharding and per-task evaluation.

    Args:
        checks: Where the outcomes go.
        run: The undisturbed rehearsal.
        config: The run's ``axolotl.yaml``.
        ranks: Processes that trained.
        sizes: How often was saved.
    """
    keep = int(config.get("save_total_limit") or 2)
    found = list_checkpoints(run.model)
    with checks.check("checkpoints are complete") as check:
        torn = [f"{c.path.name}: {'; '.join(c.problems)}" for c in found if not c.complete]
        check.detail = ", ".join(f"{c.path.name}" for c in found)
        if torn or not found:
            fail(check, "; ".join(torn) or "there are none")
    with checks.check("rotation keeps the newest") as check:
        expected = min(keep, sizes.steps // sizes.save_steps)
        check.detail = f"{len(found)} of at most {keep}"
        newest = max((c.step for c in found), default=0)
        if not expected <= len(found) <= max(keep, 2) or newest < sizes.steps - sizes.save_steps:
            fail(check, f"{len(found)} checkpoints, the newest at step {newest}; keep is {keep}")
    if config.get("fsdp_config") and ranks > 1:
        with checks.check("state is sharded over the mesh") as check:
            shards = sorted((found[-1].path / "optimizer_0").glob("*.distcp")) if found else []
            wanted = int(config.get("dp_shard_size") or ranks)
            check.detail = f"{len(shards)} shards of the optimizer"
            if len(shards) < min(wanted, ranks):
                fail(check, f"{len(shards)} shards of the optimizer, {min(wanted, ranks)} expected")
    with checks.check("every task is evaluated while training") as check:
        manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
        wanted_tasks = {
            name for name, t in manifest["tasks"].items() if t["counts"]["validation"]["rows"]
        }
        seen = evaluated(run)
        check.detail = ", ".join(sorted(seen & wanted_tasks))
        if wanted_tasks - seen:
            fail(check, f"without an evaluation: {', '.join(sorted(wanted_tasks - seen))}")


def check_model(checks: Checklist, run: Run, config: Mapping[str, Any]) -> None:
    """Check that the final model is there, whole, and can be loaded with its adapter merged."""
    adapter = config.get("adapter") is not None
    with checks.check("final save", needed=True) as check:
        wanted = "adapter_model.safetensors" if adapter else "model.safetensors"
        sizes = _tensors(run.model / wanted)
        check.detail = f"{wanted}, {sizes:,} numbers"
        if adapter:
            kept = list_checkpoints(run.model)
            check.detail += f"; checkpoint {kept[-1].path.name}" if kept else ""
    with checks.check("merge and load for inference", needed=True) as check:
        from multitask.scoring.model import load_model

        model = load_model(str(run.model))
        check.detail = f"{type(model.model).__name__}, {model.model.num_parameters():,} parameters"


def check_scores(checks: Checklist, run: Run) -> None:
    """Check that every task can be scored."""
    with checks.check(f"score {_QUESTIONS} rows of every task") as check:
        from multitask.evaluation.evaluate import evaluate
        from multitask.evaluation.settings import Settings

        settings = Settings(baselines=False, generate=_QUESTIONS)
        outcome = evaluate(run, limit=_QUESTIONS, name="rehearsal", settings=settings, restart=True)
        tasks = outcome.results["tasks"]
        check.detail = ", ".join(f"{name} {task['n']}" for name, task in tasks.items())


def _tensors(path: Path) -> int:
    """Numbers in a file of weights; raises where it is torn or not there."""
    from safetensors import safe_open

    total = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (a file, not a dict)
            size = 1
            for extent in file.get_slice(name).get_shape():
                size *= extent
            total += size
    return total
