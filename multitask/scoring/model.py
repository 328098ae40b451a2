"""Loading the model that is scored: a full one, or an adapter on its base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.errors import InputError
from multitask.quiet import quiet_libraries


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score.

    Attributes:
        model: A causal language model in evaluation mode.
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


def load_model(name: str) -> LoadedModel:
    """Load a model and its tokenizer onto this machine's best device.

    Weights are float32 on a CPU (exact sums, no emulated arithmetic) and bfloat16 on a GPU.

    Args:
        name: A Hub id, or a folder with a full model or a PEFT adapter.

    Raises:
        InputError: The folder holds no model or no tokenizer, or the Hub does not give it.
    """
    quiet_libraries()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = Path(name)
    adapter = folder / "adapter_config.json"
    if folder.is_dir() and not adapter.is_file() and not (folder / "config.json").is_file():
        raise InputError("the folder holds no model (no config.json)", where=name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    base = _base_of(adapter) if adapter.is_file() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if adapter.is_file():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, name).merge_and_unload()
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"the model cannot be loaded: {first}",
            where=name,
            fix="check the path; a gated model needs its conditions accepted and `hf auth login`",
        ) from None
    return LoadedModel(model=model.to(device).eval(), tokenizer=tokenizer, name=name)


def _base_of(adapter: Path) -> str:
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InputError("the adapter does not name its base model", where=adapter)
    return str(base)
