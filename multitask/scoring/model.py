"""Loading the model that is scored: a full one, or an adapter on its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multitask.errors import InputError, MultitaskError, did_you_mean
from multitask.files import read_json
from multitask.formatting import first_line
from multitask.models import attention_of
from multitask.models.adapter import load_adapter
from multitask.quiet import quiet_libraries
from multitask.scoring.chat import freeze_tokenizer
from multitask.scoring.encode import Encoder, LabelEncoder, PairEncoder
from multitask.scoring.placement import Memory, Placement, place

Quantisation = Literal["4bit", "8bit"]

_DTYPES = ("float32", "bfloat16", "float16")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")


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
    def pad_token(self) -> int:
        """A token id to fill batches with; padding is masked, so any will do."""
        return self.tokenizer.pad_token_id or 0

    @property
    def context(self) -> int | None:
        """Most tokens that the model was made to read; None where it has no such limit."""
        config = self.model.config
        if getattr(config, "is_encoder_decoder", False):
            return getattr(config, "max_position_embeddings", None)
        config = config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return int(limit or 0) or None

    def encoder(self) -> LabelEncoder:
        """The encoder that suits the model; it shortens prompts beyond the context."""
        if getattr(self.model.config, "is_encoder_decoder", False):
            return PairEncoder(self.tokenizer, context=self.context)
        return Encoder(self.tokenizer, context=self.context)


def load_model(
    name: str,
    *,
    dtype: str | None = None,
    quantisation: Quantisation | None = None,
    memory: Memory | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Load a model and its tokenizer onto this machine's best devices.

    A model larger than a GPU is divided over those that this process has; see `placement`.

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
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = Path(name)
    adapter = folder / "adapter_config.json"
    if folder.is_dir() and not adapter.is_file() and not (folder / "config.json").is_file():
        raise InputError("the folder holds no model (no config.json)", where=folder)
    base = _base_of(adapter) if adapter.is_file() else name
    _check_tokenizer(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}", fix=did_you_mean(dtype, _DTYPES))
    precision = dtype or ("bfloat16" if device == "cuda" else "float32")
    options: dict[str, Any] = {"dtype": getattr(torch, precision)}
    if quantisation is not None:
        options |= _quantised(quantisation, device, options["dtype"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        freeze_tokenizer(tokenizer)
        config = AutoConfig.from_pretrained(base)
        placement = place(
            config,
            dtype=precision,
            quantisation=quantisation,
            memory=memory,
            merges=adapter.is_file(),
        )
        report(placement.words)
        # peft cannot put an adapter onto weights that rest elsewhere (peft/peft_model.py,
        # _update_offload), so it is merged first, in main memory.
        merge_first = adapter.is_file() and placement.rests
        if placement.device_map is not None and not merge_first:
            options["device_map"] = placement.device_map
        model = _load(base, config, options)
        if placement.device_map is None and not getattr(model, "is_quantized", False):
            model = model.to(device)  # before an adapter: PiSSA's decomposes the base's weights
        if adapter.is_file():
            model = _adapted(model, name, merge=not getattr(model, "is_quantized", False))
        if merge_first:
            model = _dispatched(model, placement)
    except Exception as error:
        # A damaged model can raise whatever its library does; ours say more than that.
        no_fault = isinstance(error, (MultitaskError, ImportError))
        if no_fault or type(error).__name__ == "OutOfMemoryError":
            raise
        where = name if base == name else f"{name} on {base}"
        raise InputError(
            f"the model cannot be loaded: {first_line(error)}",
            where=where,
            fix="check the path; a gated model needs its conditions accepted and `hf auth login`",
        ) from None
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, name=name)


def _check_tokenizer(folder: Path) -> None:
    if not folder.is_dir():
        return
    if not any((folder / file).is_file() for file in (*_TOKENIZER_FILES, "vocab.json")):
        raise InputError(
            "the folder holds no tokenizer",
            where=folder,
            fix="save the tokenizer that training used into it, with its chat template",
        )


def _load(base: str, config: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Label trees need a mask of their own, which flash attention does not take. transformers would
    # choose sdpa wherever it can, and so drop Gemma 2's soft cap (sdpa_attention_forward in
    # transformers/integrations/sdpa_attention.py ignores `softcap`).
    known = attention_of(config.to_dict())
    if known is not None:
        usable = [name for name in known if not name.startswith("flash")]
        options = {"attn_implementation": usable[0] if usable else "eager", **options}
    return kind.from_pretrained(base, **options)


def _adapted(model: Any, adapter: str, *, merge: bool) -> Any:
    """The base with the adapter in it: merged, or beside weights that are quantised."""
    adapted = load_adapter(model, Path(adapter))
    if adapted.active_peft_config.is_prompt_learning:
        raise InputError("a prompt-tuning adapter cannot be scored", where=adapter)
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _dispatched(model: Any, placement: Placement) -> Any:
    """A model in main memory, divided over its devices."""
    from tempfile import TemporaryDirectory

    from accelerate import dispatch_model

    folder = TemporaryDirectory(prefix="multitask-")
    divided = dispatch_model(model, placement.device_map, offload_dir=folder.name)
    divided._offload_folder = folder  # goes when the model does
    return divided


def _quantised(quantisation: str, device: str, dtype: Any) -> dict[str, Any]:
    if quantisation not in ("4bit", "8bit"):
        raise InputError(f"unknown quantisation {quantisation!r}", fix="known: 4bit, 8bit")
    if device != "cuda":
        raise InputError("quantised models need a GPU", fix="leave the quantisation out")
    from transformers import BitsAndBytesConfig

    four = quantisation == "4bit"
    config = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
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
