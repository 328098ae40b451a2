"""The files of a model as others can load them: those of the run, or merged from them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.checkpoints import Checkpoint, list_checkpoints
from multitask.errors import InputError, MultitaskError
from multitask.evaluation.model_key import model_key
from multitask.evaluation.models import trained_model
from multitask.models.adapter import decomposes, load_adapter
from multitask.run import Run, staged_folder, write_atomic

Report = Callable[[str], None]

_SHARDS = "pytorch_model_fsdp_0"
_SHARD_SIZE = "5GB"
_REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_LOADED = re.compile(
    r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|chat_template|vocab|preprocessor_config|processor_config)\.json"
    r"|merges\.txt|chat_template\.jinja|[\w.-]+\.(model|tiktoken)|(modeling|configuration|"
    r"tokenization)_\w+\.py"
)


@dataclass(frozen=True)
class Found:
    """What training left, and what has to be done to it.

    Attributes:
        folder: The run's model folder.
        is_adapter: Whether it is an adapter on a base model.
        shards: The sharded checkpoint that holds the weights, where the folder has none.
        merge: Whether the adapter is to become part of its base.
        base: The adapter's base model as training had it; None without an adapter.
    """

    folder: Path
    is_adapter: bool
    shards: Checkpoint | None
    merge: bool
    base: str | None

    @property
    def needs_work(self) -> bool:
        """Whether files have to be made that the run does not have."""
        return self.merge or self.shards is not None

    @property
    def pushes_adapter(self) -> bool:
        """Whether what others get is an adapter."""
        return self.is_adapter and not self.merge

    def key(self) -> str:
        """A digest that changes with the weights and with what is done to them."""
        source = model_key(str(self.folder))
        if self.shards is not None:
            source += model_key(str(self.shards.path / _SHARDS)) + self.shards.path.name
        return f"{source} merged={self.merge}"


def is_repo(name: str) -> bool:
    """Whether a model's name is that of a repository, and not of a folder on this machine."""
    return bool(_REPO.fullmatch(name)) and not Path(name).exists()


def find(run: Run, *, merged: bool) -> Found:
    """Look at what training left; nothing is loaded.

    Raises:
        InputError: Training has not ended, there is no adapter to merge, or no weights.
    """
    folder = trained_model(run)
    adapter = _adapter_config(folder)
    weights = any(folder.glob("*model*.safetensors"))
    if merged and adapter is None:
        raise InputError("there is no adapter to merge", where=folder, fix="leave out --merged")
    base = None if adapter is None else str(adapter.get("base_model_name_or_path") or "")
    shards = None if weights else _shards(run)
    return Found(folder, adapter is not None, shards, merged, base)


def _adapter_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=path) from None
    return content


def _shards(run: Run) -> Checkpoint:
    """The last checkpoint, when it is complete, sharded, and of the training's end."""
    fix = f"end the training with `multitask train {run.root} --resume`"
    found = [c for c in list_checkpoints(run.model) if (c.path / _SHARDS).is_dir()]
    if not found:
        raise InputError("the folder holds no weights", where=run.model, fix=fix)
    last = found[-1]
    if not last.complete:
        raise InputError(f"{last.state}: {'; '.join(last.problems)}", where=last.path, fix=fix)
    state = json.loads((last.path / "trainer_state.json").read_text(encoding="utf-8"))
    if last.step < int(state.get("max_steps") or 0):
        raise InputError(
            f"training stopped at step {last.step} of {state['max_steps']}",
            where=last.path,
            fix=fix,
        )
    return last


def prepare(found: Found, work: Path, report: Report) -> Path:
    """Make the folder with the files that others load.

    What has to be merged is merged into a folder beside ``work`` first and renamed at the end; a
    finished one of the same weights, left by an upload that was cut, is taken again.

    Args:
        found: What training left.
        work: A folder of this command's own in the run.
        report: Told what takes long.

    Returns:
        The run's model folder, or the one in ``work``.

    Raises:
        MultitaskError: The weights cannot be loaded or merged.
    """
    for left in work.glob(".model.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    if not found.needs_work:
        return found.folder
    out, key = work / "model", found.key()
    mark = out / ".multitask-merged"
    if mark.is_file() and mark.read_text(encoding="utf-8") == key:
        report("taking the merged weights of the upload that was cut")
        return out
    shutil.rmtree(out, ignore_errors=True)
    with staged_folder(out) as stage:
        source = found.folder
        if found.shards is not None:
            report(f"merging the shards of {found.shards.path.name}")
            source = stage if not found.merge else stage / "adapter"
            _merge_shards(found, source)
        if found.merge:
            report("merging the adapter into its base model")
            _merge_adapter(source, stage)
            if source != found.folder:
                shutil.rmtree(source)
        write_atomic(stage / mark.name, key)
    return out


def _merge_shards(found: Found, out: Path) -> None:
    """Gather a sharded checkpoint into safetensors beside the small files of the folder."""
    assert found.shards is not None
    import torch
    from accelerate.utils import merge_fsdp_weights
    from huggingface_hub import save_torch_state_dict
    from safetensors import safe_open
    from torch.distributed.checkpoint.api import CheckpointException

    out.mkdir(exist_ok=True)
    for path in loaded_files(found.folder):
        shutil.copy2(path, out / path.name)
    _without_prefix(out / "config.json")
    gathered = out / "gathered"
    try:
        merge_fsdp_weights(str(found.shards.path / _SHARDS), str(gathered))
    except (Exception, CheckpointException) as error:  # noqa: BLE001  # a damaged shard raises anything
        damage = next(iter(getattr(error, "failures", {}).values()), (error,))[0]
        raise MultitaskError(
            f"the shards cannot be merged ({type(damage).__name__})",
            where=found.shards.path,
            fix="remove the checkpoint, then end the training again with --resume",
        ) from None
    dtype = None if found.is_adapter else _dtype(found.folder)
    with safe_open(gathered / "model.safetensors", framework="pt") as file:
        tensors = {
            name: file.get_tensor(name).to(getattr(torch, dtype) if dtype else None)
            for name in file.keys()  # noqa: SIM118 (a file, not a dict)
        }
    stem = "adapter_model" if found.is_adapter else "model"
    save_torch_state_dict(
        tensors,
        out,
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=_SHARD_SIZE,
    )
    shutil.rmtree(gathered)


def _without_prefix(path: Path) -> None:
    """Take FSDP out of the architecture's name, as Axolotl does only after it merged."""
    config = json.loads(path.read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    if any(name.startswith("FSDP") for name in names):
        config["architectures"] = [name.removeprefix("FSDP") for name in names]
        write_atomic(path, json.dumps(config, indent=2) + "\n")


def _dtype(folder: Path) -> str:
    """The data type that a model's configuration says; shards of training are often wider."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return name if name in ("float32", "float16", "bfloat16") else "bfloat16"


def _merge_adapter(adapter: Path, out: Path) -> None:
    """Add an adapter's weights to those of its base, in the base's own data type."""
    import torch
    from peft import PeftConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fix = "put the base where training had it; a gated one needs `hf auth login`"
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        base = str(config.base_model_name_or_path)
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        if decomposes(config.init_lora_weights) and torch.cuda.is_available():
            model = model.to("cuda")  # a CPU decomposes for hours
        model = load_adapter(model, adapter)
        if model.active_peft_config.is_prompt_learning:
            raise InputError(
                "a prompt-tuning adapter cannot be merged", where=adapter, fix="leave out --merged"
            )
        with torch.no_grad():
            whole = model.merge_and_unload(safe_merge=True)
        tokenizer = AutoTokenizer.from_pretrained(str(adapter))
    except (OSError, ValueError, RuntimeError) as error:
        raise MultitaskError(
            f"the adapter cannot be merged: {_first_line(error)}", where=adapter, fix=fix
        ) from None
    whole.save_pretrained(out, max_shard_size=_SHARD_SIZE)
    tokenizer.save_pretrained(out)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def loaded_files(folder: Path) -> list[Path]:
    """The files that a model or an adapter is loaded from; checkpoints and logs are not."""
    return sorted(p for p in folder.iterdir() if p.is_file() and _LOADED.fullmatch(p.name))


def portable_adapter_config(path: Path, base: str) -> bytes:
    """An adapter's configuration that names its base by the repository that others have."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = base
    return (json.dumps(content, indent=2) + "\n").encode()
