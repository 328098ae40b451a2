"""Where a model that is scored goes: one GPU, several, or main memory beside them.

A model that one GPU holds goes there whole. A larger one is divided by layers over the GPUs that
this process has, as with ``device_map="auto"`` of transformers, and what is left rests in main
memory, from where it is copied for every use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multitask.errors import InputError
from multitask.formatting import byte_size

GB = 1e9
# Beside the weights: CUDA's context, a batch's logits and activations. Batches halve by themselves
# when memory runs out, so that a little is enough to begin.
_WORKING = 3 * GB
_BITS = {"4bit": 4.5, "8bit": 8.0}  # NF4 with its scales
_FILL = 0.92

Device = int | str
Memory = Mapping[Device, float]


@dataclass(frozen=True)
class Placement:
    """Where a model's layers go.

    Attributes:
        device_map: As transformers takes it; None: all on this process's one device.
        words: What is said before the model is loaded.
    """

    device_map: dict[str, Any] | None
    words: str

    @property
    def rests(self) -> bool:
        """Whether some layers are not where they are computed."""
        return bool(set((self.device_map or {}).values()) & {"cpu", "disk"})


def place(
    config: Any,
    *,
    dtype: str,
    quantisation: str | None = None,
    memory: Memory | None = None,
    processes: int | None = None,
    merges: bool = False,
) -> Placement:
    """Decide where a model goes, before it is loaded.

    Args:
        config: Its configuration, from transformers.
        dtype: Precision of its weights.
        quantisation: ``4bit`` or ``8bit``.
        memory: Bytes that each device has, by GPU number, ``cpu`` and ``disk``; default: what this
            process finds.
        processes: Processes on this machine that load a copy each; default: the launcher's.
        merges: Whether an adapter is merged into it, for which main memory must hold all of it
            where some layers rest there.

    Raises:
        InputError: No division fits.
    """
    import torch

    processes = processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    memory = memory if memory is not None else _found(processes)
    gpus: Memory = {device: size for device, size in memory.items() if isinstance(device, int)}
    model = _meta(config)
    if model is None:
        return Placement(None, "how much memory the model needs is not known")
    exact = sum(p.numel() for p in model.parameters()) * getattr(torch, dtype).itemsize
    linear = sum(
        m.weight.numel()
        for m in model.modules()
        if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()
    )
    width = getattr(torch, dtype).itemsize
    weights = exact - linear * (width - _BITS[quantisation] / 8) if quantisation else exact
    needs = f"{byte_size(weights)} of weights in {quantisation or dtype}"
    if not gpus:
        return _in_main_memory(model, weights, needs, memory, dtype, processes)
    needs += f", and {byte_size(_WORKING)} or more to work in"
    most = max(gpus.values())
    if weights + _WORKING <= most:
        return Placement(None, f"{needs}; one GPU of {byte_size(most)} holds it")
    if quantisation is None:
        found = _divided(model, memory, dtype)
        placement = None if found is None else _told(found, needs, gpus)
        if placement and not (merges and placement.rests and weights > memory["cpu"]):
            return placement
    smaller = {kind: exact - linear * (width - bits / 8) for kind, bits in _BITS.items()}
    raise _too_large(weights, needs, gpus, processes, smaller)


def _meta(config: Any) -> Any | None:
    """The model without weights; None where transformers cannot build it from its configuration."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = kind.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError):
        return None
    model.tie_weights()
    return model


def _found(processes: int) -> dict[int | str, float]:
    """Memory of the devices that this process has."""
    import torch

    from multitask.doctor.machine import memory_bytes

    memory: dict[int | str, float] = {}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory[i] = torch.cuda.mem_get_info(i)[0] * _FILL
    main = (memory_bytes() or math.inf) * _FILL
    memory["cpu"] = main / processes if memory else main
    return memory


def _divided(model: Any, memory: Memory, dtype: str) -> dict[str, Any] | None:
    """A division by layers, with room to work on each GPU; None where none fits."""
    import torch
    from accelerate import infer_auto_device_map

    room = {
        device: int(max(0.0, size - (_WORKING if isinstance(device, int) else 0)))
        for device, size in memory.items()
    }
    found: dict[str, Any] = infer_auto_device_map(
        model,
        max_memory=room,
        no_split_module_classes=list(model._no_split_modules or ()),
        dtype=getattr(torch, dtype),
    )
    # accelerate names the disk for what fits nowhere, whether or not it was offered.
    return None if "disk" in found.values() and "disk" not in memory else found


def _told(found: dict[str, Any], needs: str, gpus: Memory) -> Placement:
    devices = [device for device in dict.fromkeys(found.values()) if isinstance(device, int)]
    words = f"{needs}; divided over {len(devices)} of {len(gpus)} GPUs"
    if Placement(found, "").rests:
        words += (
            ", and what they do not hold rests in main memory, which is slow: `--quantisation "
            "4bit` or more GPUs would be faster"
        )
    return Placement(found, words)


def _in_main_memory(
    model: Any, weights: float, needs: str, memory: Memory, dtype: str, processes: int
) -> Placement:
    available = memory["cpu"]
    times = f"; {processes} processes load it {processes} times" if processes > 1 else ""
    if weights * processes <= available:
        return Placement(None, f"{needs}; of {byte_size(available)} main memory{times}")
    if "disk" in memory and processes == 1:
        found = _divided(model, memory, dtype)
        if found is not None:
            return Placement(found, f"{needs}; what main memory does not hold rests on disk")
    fits = int(available // weights)
    half = "" if dtype != "float32" else "--dtype bfloat16, or "
    raise InputError(
        f"the model does not fit: {needs}{times}, and there are {byte_size(available)} of main "
        "memory",
        where="option '--processes'" if fits else None,
        fix=f"--processes {fits}" if fits else f"{half}a machine with more memory",
    )


def _too_large(
    weights: float, needs: str, gpus: Memory, processes: int, smaller: Mapping[str, float]
) -> InputError:
    """What to do about a model that the GPUs of a process and main memory do not hold.

    Args:
        weights: Bytes of its weights.
        needs: What it needs, in words.
        gpus: The GPUs of this process.
        processes: Processes that have as many.
        smaller: Bytes of its weights when quantised.
    """
    most = max(gpus.values())
    per_copy = math.ceil(weights / max(1.0, min(gpus.values()) - _WORKING))
    fixes = []
    if processes > 1 and per_copy <= len(gpus) * processes:
        fixes.append(f"--processes {len(gpus) * processes // per_copy}")
    fitting = [kind for kind, size in smaller.items() if size + _WORKING <= most and size < weights]
    fixes += [f"--quantisation {kind}" for kind in fitting[-1:]]
    if not fixes:
        fixes.append(f"{per_copy} GPUs of this size for a copy")
    have = ("is 1 GPU" if len(gpus) == 1 else f"are {len(gpus)}") + f" of {byte_size(most)}"
    each = " for each process" if processes > 1 else ""
    return InputError(
        f"the model does not fit: {needs}, and there {have}{each}",
        where="option '--processes'" if processes > 1 else None,
        fix=", or ".join(fixes),
    )
