"""In the ranks of a rehearsal: what a training step computes and holds, compared with another way.

Before the first step the gradients of one batch are taken three times: as the run is configured,
without computing layers again, and without Axolotl's fused LoRA kernels. All must agree, since
these only save memory and time. After the step it is noted in which widths weights, gradients and
optimizer states are held, and at the end whether the copies of the model are still the same. The
training itself goes on as if nothing had been asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multitask.run import write_atomic

VARIABLE = "MULTITASK_REHEARSAL_PROBE"


def install() -> None:
    """In a rank: probe the training, where the environment names a file for the answers."""
    if not os.environ.get(VARIABLE):
        return
    path = Path(os.environ[VARIABLE])
    from transformers import TrainerCallback
    from transformers.trainer import DEFAULT_CALLBACKS

    from multitask.runners.axolotl.trainer import MultitaskTrainer

    found: dict[str, Any] = {}
    original = MultitaskTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        if not found:
            found["gradients"] = compare_gradients(self, model, inputs)
        return original(self, model, inputs, *rest, **options)

    class Widths(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if "widths" not in found and not args.deepspeed:
                gradients = [p.grad for p in _learning(kwargs["model"]) if p.grad is not None]
                found["widths"] = {"gradients": _bytes_per_number(gradients)}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if "optimizer" not in found.get("widths", {"optimizer": "DeepSpeed's"}):
                weights = _learning(kwargs["model"])
                states = [
                    value
                    for of_one in kwargs["optimizer"].state.values()
                    for value in of_one.values()
                    if hasattr(value, "dim") and value.dim() > 0
                ]
                share = _numbers(states) / max(1, _numbers(weights))
                found["widths"]["weights"] = _bytes_per_number(weights)
                found["widths"]["optimizer"] = share * _bytes_per_number(states)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            from multitask.callbacks.checkpoints import rank

            found["copies"] = compare_copies(kwargs["model"])
            if rank() == 0:
                write_atomic(path, json.dumps(found, indent=1) + "\n")

    MultitaskTrainer.training_step = training_step
    DEFAULT_CALLBACKS.append(Widths)


def compare_gradients(trainer: Any, model: Any, inputs: Any) -> dict[str, dict[str, float]]:
    """The gradients of a batch with and without what must not change them.

    Args:
        trainer: A ``MultitaskTrainer`` that is about to train.
        model: What it trains, wrapped and sharded.
        inputs: The batch.

    Returns:
        By what was left out, ``recompute`` and ``kernels``, the error of the gradients relative to
        those without it, by kind of parameter; nothing where the run does not use it, and
        with DeepSpeed.
    """
    found: dict[str, dict[str, float]] = {}
    if trainer.is_deepspeed_enabled:  # its backward pass is a part of its step
        return found
    with _reduced(trainer, model):
        with without_recompute(model) as recomputing:
            plain = _gradients(trainer, model, inputs) if recomputing else None
        if plain is not None:
            found["recompute"] = _errors(_gradients(trainer, model, inputs), plain)
        # Fused projections draw dropout in another order.
        with _without_dropout(model):
            with without_kernels(model) as fused:
                plain = _gradients(trainer, model, inputs) if fused else None
            if plain is not None:
                found["kernels"] = _errors(_gradients(trainer, model, inputs), plain)
    return found


def _gradients(trainer: Any, model: Any, inputs: Any) -> dict[str, Any]:
    """This rank's part of the gradients of a batch, by parameter; random numbers are put back."""
    import numpy as np
    import torch

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    balance, trainer.balance = trainer.balance, None  # it counts what is trained on
    try:
        model.train()
        batch = trainer._prepare_inputs(dict(inputs))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, batch)
        trainer.accelerator.backward(loss)
        return {
            name: _local(parameter.grad).detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    finally:
        trainer.balance = balance
        model.zero_grad()
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def _reduced(trainer: Any, model: Any) -> Iterator[None]:
    """Let gradients be reduced, also in a pass of a step that accumulates several."""
    waits = not trainer.accelerator.sync_gradients and hasattr(model, "set_requires_gradient_sync")
    if waits:
        model.set_requires_gradient_sync(True)
    yield
    if waits:
        model.set_requires_gradient_sync(False)


@contextmanager
def without_recompute(model: Any) -> Iterator[bool]:
    """Keep the activations of layers that are computed again; whether there are any."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    wrapped = any(isinstance(module, CheckpointWrapper) for module in model.modules())
    forward = CheckpointWrapper.forward
    for layer in layers:
        layer.gradient_checkpointing = False
    CheckpointWrapper.forward = lambda self, *a, **k: self._checkpoint_wrapped_module(*a, **k)
    try:
        yield bool(layers) or wrapped
    finally:
        CheckpointWrapper.forward = forward
        for layer in layers:
            layer.gradient_checkpointing = True


@contextmanager
def without_kernels(model: Any) -> Iterator[bool]:
    """Compute attention's projections in PEFT's own way; whether Axolotl's kernels did.

    ``axolotl/monkeypatch/lora_kernels.py``, ``apply_lora_kernel_patches``.
    """
    from axolotl.monkeypatch import lora_kernels

    plain: dict[str, Callable[..., Any]] = {
        "apply_qkv": lora_kernels.original_apply_qkv,
        "apply_o": lora_kernels.original_apply_o,
    }
    changed = []
    for module in model.modules():
        for name, function in plain.items():
            ours = module.__dict__.get(name)
            if ours is not None and ours.__func__ is not function:
                changed.append((module, name, ours))
                module.__dict__[name] = types.MethodType(function, module)
    try:
        yield bool(changed)
    finally:
        for module, name, ours in changed:
            module.__dict__[name] = ours


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    import torch

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    yield
    for layer, share in zip(layers, before, strict=True):
        layer.p = share


def _errors(found: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Relative errors over all ranks, by kind of parameter."""
    import torch

    from multitask.callbacks.checkpoints import gather

    kinds = sorted({_kind(name) for name in plain})
    sums = torch.zeros(len(kinds), 2, dtype=torch.float64)
    for name, wanted in plain.items():
        place = kinds.index(_kind(name))
        wanted = wanted.double()  # noqa: PLW2901
        seen = found[name].double() if name in found else torch.zeros_like(wanted)
        sums[place, 0] += (seen - wanted).square().sum()
        sums[place, 1] += wanted.square().sum()
    total = sum(gather(sums))
    return {
        kind: float((total[i, 0] / total[i, 1]).sqrt())
        for i, kind in enumerate(kinds)
        if total[i, 1] > 0  # LoRA's A has no gradient while B is zero
    }


def _kind(name: str) -> str:
    """What sort of a parameter it is: of LoRA its matrix, of others their layer."""
    parts = name.removesuffix(".default").removesuffix(".weight").removesuffix(".default")
    return parts.rsplit(".", 1)[-1]


def compare_copies(model: Any) -> dict[str, int]:
    """Count the parts of what learns that several processes hold, and those that differ."""
    from multitask.callbacks.checkpoints import gather

    mine = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            content = _local(parameter.detach()).contiguous().flatten()
            digest = hashlib.sha256(content.view(_byte()).numpy().tobytes()).hexdigest()
            mine[f"{name} {_shard(parameter)}"] = digest
    seen: dict[str, list[str]] = {}
    for of_rank in gather(mine):
        for part, digest in of_rank.items():
            seen.setdefault(part, []).append(digest)
    held = [digests for digests in seen.values() if len(digests) > 1]
    return {"parts": len(held), "differing": sum(len(set(digests)) > 1 for digests in held)}


def _shard(parameter: Any) -> tuple[int, ...]:
    """Which part of a parameter this process holds: its place along the mesh's sharding axes."""
    if not hasattr(parameter, "device_mesh"):
        return ()
    place = parameter.device_mesh.get_coordinate()
    return tuple(at for at, how in zip(place, parameter.placements, strict=True) if how.is_shard())


def _learning(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _local(tensor: Any) -> Any:
    """What this process holds of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _byte() -> Any:
    import torch

    return torch.uint8


def _numbers(tensors: list[Any]) -> int:
    return sum(int(_local(tensor).numel()) for tensor in tensors)


def _bytes_per_number(tensors: list[Any]) -> float:
    size = sum(int(_local(tensor).numel() * tensor.element_size()) for tensor in tensors)
    return size / max(1, _numbers(tensors))
