"""The model that is scored: what it can do, where it goes, how it is loaded.

A model that one GPU holds goes there whole. A larger one is divided by layers over the GPUs that
this process has, as with ``device_map="auto"`` of transformers, and what is left rests in main
memory, from where it is copied for every use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

from multitask.errors import InputError, MultitaskError, did_you_mean
from multitask.files import read_json
from multitask.formatting import byte_size, first_line
from multitask.models import attention_of
from multitask.models.adapter import load_adapter
from multitask.quiet import quiet_libraries
from multitask.scoring.chat import freeze_tokenizer
from multitask.scoring.encode import Encoder, PairEncoder

Quantisation = Literal["4bit", "8bit"]
Memory = Mapping[int | str, float]

GB = 1e9
# Beside the weights: CUDA's context, a batch's logits and activations. Batches halve by themselves
# when memory runs out, so that a little is enough to begin.
_WORKING = 3 * GB
_BITS = {"4bit": 4.5, "8bit": 8.0}  # NF4 with its scales
_FILL = 0.92
_DTYPES = ("float32", "bfloat16", "float16")
_TOKENIZER_FILES = {
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json",
}  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score.

    Attributes:
        model: A causal or encoder-decoder model in evaluation mode.
        tokenizer: Its tokenizer, with the chat template that training used.
        name: Path or Hub id.
    """

    model: Any
    tokenizer: Any
    name: str

    @property
    def context(self) -> int | None:
        """Most tokens that the model was made to read; None where it has no such limit."""
        config = self.model.config
        if not config.is_encoder_decoder:
            config = config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or None

    def encoder(self, *, room: int = 0) -> Encoder:
        """The encoder that suits the model; it shortens prompts beyond the context.

        ``room`` tokens of it are left for a generated answer; half at least is the prompt's.
        """
        context = self.context
        if self.model.config.is_encoder_decoder:
            return PairEncoder(self.tokenizer, context=context)
        if context is not None and room:
            context = max(context - room, (context + 1) // 2)
        return Encoder(self.tokenizer, context=context)


class Method(StrEnum):
    """How the tokens of a label tree are put to a model.

    Attributes:
        TREE: All nodes of a query in one sequence after its cached prompt, under a mask that lets
            each see its ancestors alone. Needs attention over explicit positions.
        CACHED: Each path from the prompt in a row of its own, on a copy of the prompt's cache.
        PLAIN: Prompt and path in a row of its own, without any cache. Right for every causal model.
        ENCODER_DECODER: The prompt through the encoder once; each path in a row of the decoder.
    """

    TREE = "tree"
    CACHED = "cached"
    PLAIN = "plain"
    ENCODER_DECODER = "encoder-decoder"


class Capability(NamedTuple):
    """The fastest method that is right for an architecture, and why it is not ``TREE``.

    With ``equal_lengths`` prompts of different lengths may not be padded into one batch.
    """

    method: Method
    reason: str = ""
    equal_lengths: bool = False


_ALIBI_MODELS = frozenset({"bloom", "mpt"})
_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_LEARNT_POSITIONS = frozenset(
    {"gpt2", "opt", "gpt_bigcode", "biogpt", "xglm", "gpt_neo", "openai-gpt"}
)


def capability_of(model: Any, longest: int) -> Capability:
    """Tell which method suits a model; windows of ``longest`` tokens or more do not matter."""
    if model.config.is_encoder_decoder:
        return Capability(Method.ENCODER_DECODER)
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(model, "_is_stateful", False) or layers - _ATTENTION_LAYERS:
        return Capability(Method.CACHED, "the model has recurrent layers", equal_lengths=True)
    window, attention = _window(config, layers), getattr(config, "_attn_implementation", "eager")
    reason = ""
    if config.model_type in _ALIBI_MODELS or getattr(config, "alibi", False):
        reason = "the model takes positions from the mask (ALiBi)"
    elif window is not None and window < longest:
        reason = f"the model attends over a window of {window} tokens, shorter than the prompts"
    elif attention not in ("sdpa", "eager"):
        reason = f"the attention {attention!r} takes no mask of its own"
    return Capability(Method.CACHED if reason else Method.TREE, reason)


def _window(config: Any, layers: set[str]) -> int | None:
    """The shortest window of a layer, None where all layers see everything."""
    if layers == {"full_attention"} or getattr(config, "use_sliding_window", True) is False:
        return None
    windows = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")]
    return min((int(window) for window in windows if window), default=None)


def position_limit(model: Any) -> int | None:
    """Most tokens that a model with learnt absolute positions can read; None: no hard limit."""
    config = model.config.get_text_config()
    return int(config.max_position_embeddings) if config.model_type in _LEARNT_POSITIONS else None


def load_model(
    name: str,
    *,
    dtype: str | None = None,
    quantisation: Quantisation | None = None,
    memory: Memory | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Load a model and its tokenizer onto this machine's best devices.

    Args:
        name: A Hub id, or a folder with a full model or a PEFT adapter.
        dtype: ``float32``, ``bfloat16`` or ``float16``; default: float32 on a CPU (exact sums, no
            emulated arithmetic), bfloat16 on a GPU.
        quantisation: Load the weights in 4 (NF4) or 8 bits with bitsandbytes; needs a GPU.
        memory: Bytes that may be used of each device; default: what is free.
        report: Told what memory it needs, before it is loaded.

    Raises:
        InputError: The model fits nowhere, the folder holds no model or no tokenizer, an adapter's
            base is missing, the adapter's tensors are not those of the base, the Hub does not give
            the model, or it cannot be quantised here.
    """
    quiet_libraries()
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    adapter = Path(name) if (Path(name) / "adapter_config.json").is_file() else None
    base = name if adapter is None else _base_of(adapter / "adapter_config.json")
    if Path(name).is_dir():
        _check_folder(Path(name), adapted=adapter is not None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}", fix=did_you_mean(dtype, _DTYPES))
    precision = dtype or ("bfloat16" if device == "cuda" else "float32")
    options = {} if quantisation is None else _quantised(quantisation, device, precision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        freeze_tokenizer(tokenizer)
        model = _placed(base, adapter, precision, quantisation, options, memory, report)
    except Exception as error:
        # A damaged model can raise whatever its library does; ours say more than that.
        no_fault = isinstance(error, (MultitaskError, ImportError))
        if no_fault or type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError(
            f"the model cannot be loaded: {first_line(error)}",
            where=name if base == name else f"{name} on {base}",
            fix="check the path; a gated model needs its conditions accepted and `hf auth login`",
        ) from None
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, name=name)


def _placed(
    base: str,
    adapter: Path | None,
    dtype: str,
    quantisation: str | None,
    options: dict[str, Any],
    memory: Memory | None,
    report: Callable[[str], None],
) -> Any:
    """The model with its adapter, on the devices that hold it."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    devices, words = place(
        config, dtype=dtype, quantisation=quantisation, memory=memory, merges=adapter is not None
    )
    report(words)
    # peft cannot put an adapter onto weights that rest elsewhere (peft/peft_model.py,
    # _update_offload), so it is merged first, in main memory.
    merge_first = adapter is not None and _rests(devices)
    if devices is not None and not merge_first:
        options = options | {"device_map": devices}
    # Label trees need a mask of their own, which flash attention does not take. transformers would
    # choose sdpa wherever it can, and so drop Gemma 2's soft cap (sdpa_attention_forward in
    # transformers/integrations/sdpa_attention.py ignores `softcap`).
    known = attention_of(config.to_dict())
    if known is not None:
        usable = (name for name in known if not name.startswith("flash"))
        options = options | {"attn_implementation": next(usable, "eager")}
    options = {"dtype": getattr(torch, dtype), **options}
    model = _auto_class(config).from_pretrained(base, **options)
    quantised = getattr(model, "is_quantized", False)
    if devices is None and not quantised:
        # Before an adapter: PiSSA's decomposes the base's weights.
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    if adapter is not None:
        with_adapter = load_adapter(model, adapter)
        if with_adapter.active_peft_config.is_prompt_learning:
            raise InputError("a prompt-tuning adapter cannot be scored", where=adapter)
        # Quantised weights stay beside it.
        model = with_adapter.get_base_model() if quantised else with_adapter.merge_and_unload()
    return _dispatched(model, devices) if merge_first else model


def _check_folder(folder: Path, *, adapted: bool) -> None:
    if not adapted and not (folder / "config.json").is_file():
        raise InputError("the folder holds no model (no config.json)", where=folder)
    if _TOKENIZER_FILES.isdisjoint(path.name for path in folder.iterdir()):
        raise InputError(
            "the folder holds no tokenizer",
            where=folder,
            fix="save the tokenizer that training used into it, with its chat template",
        )


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _dispatched(model: Any, devices: Any) -> Any:
    """A model in main memory, divided over its devices."""
    from tempfile import TemporaryDirectory

    from accelerate import dispatch_model

    folder = TemporaryDirectory(prefix="multitask-")
    divided = dispatch_model(model, devices, offload_dir=folder.name)
    divided._offload_folder = folder  # goes when the model does
    return divided


def _quantised(quantisation: str, device: str, dtype: str) -> dict[str, Any]:
    if quantisation not in _BITS:
        raise InputError(f"unknown quantisation {quantisation!r}", fix="known: 4bit, 8bit")
    if device != "cuda":
        raise InputError("quantised models need a GPU", fix="leave the quantisation out")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=quantisation == "4bit",
        load_in_8bit=quantisation == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": 0}}


def _base_of(adapter: Path) -> str:
    """The adapter's base model, a Hub id or a folder."""
    base = read_json(adapter, fix="copy the adapter again").get("base_model_name_or_path")
    if not base:
        raise InputError("the adapter does not name its base model", where=adapter)
    looks_local = str(base).startswith((".", "/", "~")) or str(base).count("/") != 1
    if looks_local and "/" in str(base) and not Path(base).is_dir():
        raise InputError(
            f"the adapter's base model {base!r} is not there",
            where=adapter,
            fix="put the base where training had it, or set base_model_name_or_path to where it is",
        )
    return str(base)


Devices = dict[str, Any] | None
"""A device map as transformers takes it; None: all on this process's one device."""


def _rests(devices: Devices) -> bool:
    """Whether some layers are not where they are computed."""
    return not {"cpu", "disk"}.isdisjoint((devices or {}).values())


def place(
    config: Any,
    *,
    dtype: str,
    quantisation: str | None = None,
    memory: Memory | None = None,
    merges: bool = False,
) -> tuple[Devices, str]:
    """Decide where a model goes, before it is loaded.

    Args:
        config: Its configuration, from transformers.
        dtype: Precision of its weights.
        quantisation: ``4bit`` or ``8bit``.
        memory: Bytes that each device has, by GPU number, ``cpu`` and ``disk``; default: what this
            process, one of those that the launcher started on this machine, finds.
        merges: Whether an adapter is merged into it, for which main memory must hold all of it
            where some layers rest there.

    Returns:
        Where it goes, and what is said before it is loaded.

    Raises:
        InputError: No division fits.
    """
    import torch

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    memory = memory if memory is not None else _found(processes)
    gpus = [size for device, size in memory.items() if isinstance(device, int)]
    model = _meta(config)
    if model is None:
        return None, "how much memory the model needs is not known"
    width = getattr(torch, dtype).itemsize
    exact = sum(p.numel() for p in model.parameters()) * width
    linear = sum(
        m.weight.numel()
        for m in model.modules()
        if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()
    )
    smaller = {kind: exact - linear * (width - bits / 8) for kind, bits in _BITS.items()}
    weights = smaller[quantisation] if quantisation else exact
    needs = f"{byte_size(weights)} of weights in {quantisation or dtype}"
    if not gpus:
        return _in_main_memory(model, weights, needs, memory, dtype, processes)
    needs += f", and {byte_size(_WORKING)} or more to work in"
    if weights + _WORKING <= max(gpus):
        return None, f"{needs}; one GPU of {byte_size(max(gpus))} holds it"
    devices = _divided(model, memory, dtype) if quantisation is None else None
    rests = _rests(devices)
    if devices is None or (rests and merges and weights > memory["cpu"]):
        raise _too_large(weights, needs, gpus, processes, smaller)
    used = sum(isinstance(device, int) for device in set(devices.values()))
    return devices, f"{needs}; divided over {used} of {len(gpus)} GPUs" + (
        ", and what they do not hold rests in main memory, which is slow: `--quantisation 4bit` or "
        "more GPUs would be faster"
        if rests
        else ""
    )


def _meta(config: Any) -> Any | None:
    """The model without weights; None where transformers cannot build it from its configuration."""
    import torch

    try:
        with torch.device("meta"):
            model = _auto_class(config).from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError):
        return None
    model.tie_weights()
    return model


def _found(processes: int) -> dict[int | str, float]:
    """Memory of the devices that this process has."""
    import torch

    from multitask.doctor.machine import memory_bytes

    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    memory: dict[int | str, float] = {i: torch.cuda.mem_get_info(i)[0] * _FILL for i in gpus}
    main = (memory_bytes() or math.inf) * _FILL
    return memory | {"cpu": main / processes if memory else main}


def _divided(model: Any, memory: Memory, dtype: str) -> Devices:
    """A division by layers, with room to work on each GPU; None where none fits."""
    import torch
    from accelerate import infer_auto_device_map

    devices: dict[str, Any] = infer_auto_device_map(
        model,
        max_memory={
            device: int(max(0.0, size - (_WORKING if isinstance(device, int) else 0)))
            for device, size in memory.items()
        },
        no_split_module_classes=list(model._no_split_modules or ()),
        dtype=getattr(torch, dtype),
    )
    # accelerate names the disk for what fits nowhere, whether or not it was offered.
    return None if "disk" in devices.values() and "disk" not in memory else devices


def _in_main_memory(
    model: Any, weights: float, needs: str, memory: Memory, dtype: str, processes: int
) -> tuple[Devices, str]:
    available = memory["cpu"]
    times = f"; {processes} processes load it {processes} times" if processes > 1 else ""
    if weights * processes <= available:
        return None, f"{needs}; of {byte_size(available)} main memory{times}"
    if "disk" in memory and (devices := _divided(model, memory, dtype)) is not None:
        return devices, f"{needs}; what main memory does not hold rests on disk"
    fits = int(available // weights)
    half = "" if dtype != "float32" else "--dtype bfloat16, or "
    raise InputError(
        f"the model does not fit: {needs}{times}, and there are {byte_size(available)} of main "
        "memory",
        where="option '--processes'" if fits else None,
        fix=f"--processes {fits}" if fits else f"{half}a machine with more memory",
    )


def _too_large(
    weights: float, needs: str, gpus: list[float], processes: int, smaller: Mapping[str, float]
) -> InputError:
    """What to do about a model that the GPUs of a process and main memory do not hold."""
    most = max(gpus)
    per_copy = math.ceil(weights / max(1.0, min(gpus) - _WORKING))
    fixes = []
    if processes > 1 and per_copy <= len(gpus) * processes:
        fixes.append(f"--processes {len(gpus) * processes // per_copy}")
    fitting = [kind for kind, size in smaller.items() if size + _WORKING <= most and size < weights]
    fixes += [f"--quantisation {kind}" for kind in fitting[-1:]]
    have = (
        f"is 1 GPU of {byte_size(most)}"
        if len(gpus) == 1
        else f"are {len(gpus)} of {byte_size(most)}"
    )
    each = " for each process" if processes > 1 else ""
    return InputError(
        f"the model does not fit: {needs}, and there {have}{each}",
        where="option '--processes'" if processes > 1 else None,
        fix=", or ".join(fixes) or f"{per_copy} GPUs of this size for a copy",
    )
