"""Checks of what a rehearsal's training left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multitask.checkpoints import list_checkpoints
from multitask.checks import Check, Checklist
from multitask.estimate import held_bytes
from multitask.files import read_mapping
from multitask.models.adapter import load_adapter
from multitask.rehearsal.adapt import Sizes
from multitask.rehearsal.record import evaluated
from multitask.run import Run

_QUESTIONS = 20
_SHARDS = "pytorch_model_fsdp_0"
_HELD = ("weights", "gradients", "optimizer")
_WIDTH_TOLERANCE = 0.05


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
        check.answer = ", ".join(f"{c.path.name}" for c in found)
        if torn or not found:
            check.fail("; ".join(torn) or "there are none")
    with checks.check("rotation keeps the newest") as check:
        expected = min(keep, sizes.steps // sizes.save_steps)
        check.answer = f"{len(found)} of at most {keep}"
        newest = max((c.step for c in found), default=0)
        if not expected <= len(found) <= max(keep, 2) or newest < sizes.steps - sizes.save_steps:
            check.fail(f"{len(found)} checkpoints, the newest at step {newest}; keep is {keep}")
    if config.get("fsdp_config") and ranks > 1:
        with checks.check("state is sharded over the mesh") as check:
            shards = sorted((found[-1].path / "optimizer_0").glob("*.distcp")) if found else []
            wanted = int(config.get("dp_shard_size") or ranks)
            check.answer = f"{len(shards)} shards of the optimizer"
            if len(shards) < min(wanted, ranks):
                check.fail(f"{len(shards)} shards of the optimizer, {min(wanted, ranks)} expected")
    with checks.check("every task is evaluated while training") as check:
        manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
        wanted_tasks = {
            name for name, t in manifest["tasks"].items() if t["counts"]["validation"]["rows"]
        }
        seen = evaluated(run)
        check.answer = ", ".join(sorted(seen & wanted_tasks))
        if wanted_tasks - seen:
            check.fail(f"without an evaluation: {', '.join(sorted(wanted_tasks - seen))}")


def check_model(checks: Checklist, run: Run, config: Mapping[str, Any]) -> None:
    """Check that the final model is there, whole, and can be loaded with its adapter merged."""
    adapter = config.get("adapter") is not None
    with checks.check("final save", needed=True) as check:
        wanted = "adapter_model.safetensors" if adapter else "model.safetensors"
        sizes = _tensors(run.model / wanted)
        check.answer = f"{wanted}, {sizes:,} numbers"
        if adapter:
            _same_as_last_checkpoint(check, run)
    with checks.check("merge and load for inference", needed=True) as check:
        from multitask.scoring.model import load_model

        model = load_model(str(run.model))
        check.answer = f"{type(model.model).__name__}, {model.model.num_parameters():,} parameters"


def _same_as_last_checkpoint(check: Check, run: Run) -> None:
    """Compare the final adapter, in its file and loaded again, with the last checkpoint's."""
    import torch
    from peft import PeftConfig, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    last = list_checkpoints(run.model)[-1].path
    base = str(PeftConfig.from_pretrained(str(run.model)).base_model_name_or_path)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(base), run.model)
    trained = _saved_adapter(last)
    for what, found in (
        ("the final file", load_file(run.model / "adapter_model.safetensors")),
        ("the adapter loaded again", get_peft_model_state_dict(again)),
    ):
        other = [
            name
            for name in sorted(trained.keys() | found.keys())
            if name not in trained
            or name not in found
            or not torch.equal(trained[name].float(), found[name].float())
        ]
        if other:
            check.fail(
                f"{len(other)} of {len(trained)} tensors of {what} are not those of {last.name}, "
                f"such as {other[0]}",
            )
            return
    check.answer += f"; {len(trained)} tensors are those of {last.name}, also loaded again"


def _saved_adapter(checkpoint: Path) -> dict[str, Any]:
    """The adapter in a checkpoint, sharded or not, under PEFT's names."""
    if not (checkpoint / _SHARDS).is_dir():
        from safetensors.torch import load_file

        return dict(load_file(checkpoint / "adapter_model.safetensors"))
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    content: dict[str, Any] = {}
    _load_state_dict(
        content,
        storage_reader=FileSystemReader(checkpoint / _SHARDS),
        planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )
    return content["model"] if set(content) == {"model"} else content


def check_probe(checks: Checklist, run: Run, *, ranks: int) -> None:
    """Check what the ranks found out about their first step (:mod:`multitask.rehearsal.probe`).

    Args:
        checks: Where the outcomes go.
        run: The rehearsal's run, trained with the probe.
        ranks: Processes that trained.
    """
    config = read_mapping(run.axolotl)
    found = json.loads(probe_file(run).read_text(encoding="utf-8"))
    for name, title, unused, tolerance in (
        ("recompute", "recomputing layers does not change gradients", "none is recomputed", 0.01),
        ("kernels", "LoRA kernels do not change gradients", "there are none", 0.1),
    ):
        with checks.check(title) as check:
            errors = found["gradients"].get(name)
            check.answer = unused if errors is None else _shares(errors)
            if any(not error <= tolerance for error in (errors or {}).values()):
                check.fail(f"they are off by {_shares(errors)}")
    with checks.check("copies of the model are equal after training") as check:
        copies = found["copies"]
        check.answer = f"{copies['parts']} parts that several ranks hold"
        if copies["differing"]:
            check.fail(f"{copies['differing']} of {copies['parts']} parts differ between ranks")
    with checks.check("what learns is held as the estimate says") as check:
        _widths(check, config, found.get("widths"), ranks)


def probe_file(run: Run) -> Path:
    """Where the ranks of an undisturbed rehearsal write what they found out."""
    return run.logs / "probe.json"


def _shares(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {error:.2g}" for kind, error in errors.items())


def _widths(
    check: Check, config: Mapping[str, Any], widths: Mapping[str, float] | None, ranks: int
) -> None:
    """Compare bytes per parameter with the estimate's."""
    if widths is None:
        check.answer = "DeepSpeed holds copies of its own"
        return
    sharding = "fsdp" if config.get("fsdp_config") else "ddp" if ranks > 1 else "none"
    assumed = held_bytes(config, sharding)
    check.answer = ", ".join(f"{name} {widths[name]:g}" for name in _HELD) + " bytes per parameter"
    wrong = [
        f"{name}: {widths[name]:g} bytes per parameter, {getattr(assumed, name):g} in the estimate"
        for name in _HELD
        if abs(widths[name] - getattr(assumed, name)) > _WIDTH_TOLERANCE
    ]
    if wrong:
        check.fail("; ".join(wrong))


def check_scores(checks: Checklist, run: Run) -> None:
    """Check that every task can be scored."""
    with checks.check(f"score {_QUESTIONS} rows of every task") as check:
        from multitask.evaluation.evaluate import evaluate
        from multitask.evaluation.requests import Settings

        settings = Settings(baselines=False, generate=_QUESTIONS)
        outcome = evaluate(run, limit=_QUESTIONS, name="rehearsal", settings=settings, restart=True)
        tasks = outcome.results["tasks"]
        check.answer = ", ".join(f"{name} {task['n']}" for name, task in tasks.items())


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
