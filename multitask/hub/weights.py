"""The files of a model as others can load them: those of the run, or merged from them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multitask.checkpoints import Checkpoint, list_checkpoints
from multitask.checkpoints.consolidate import SHARD_SIZE, SHARDS, merge_shards
from multitask.errors import InputError, MultitaskError
from multitask.evaluation.models import model_key
from multitask.files import read_json
from multitask.formatting import first_line
from multitask.models.adapter import decomposes, load_adapter
from multitask.run import Run, staged_folder, write_atomic

Report = Callable[[str], None]

_REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Weights:
    """What training left, and what has to be done to it.

    Attributes:
        folder: The run's model folder, or a checkpoint's.
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
    def pushes_adapter(self) -> bool:
        """Whether what others get is an adapter."""
        return self.is_adapter and not self.merge

    def key(self) -> str:
        """A digest that changes with the weights and with what is done to them."""
        source = model_key(str(self.folder))
        if self.shards is not None:
            source += model_key(str(self.shards.path / SHARDS)) + self.shards.path.name
        return f"{source} merged={self.merge}"


def is_repo(name: str) -> bool:
    """Whether a model's name is that of a repository, and not of a folder on this machine."""
    return bool(_REPO.fullmatch(name)) and not Path(name).exists()


def find(run: Run, folder: Path, *, merged: bool) -> Weights:
    """Look at what training left in a folder; nothing is loaded.

    Raises:
        InputError: There is no adapter to merge, or no weights.
    """
    path = folder / "adapter_config.json"
    adapter = read_json(path) if path.is_file() else None
    weights = any(folder.glob("*model*.safetensors"))
    if merged and adapter is None:
        raise InputError("there is no adapter to merge", where=folder, fix="leave out --merged")
    base = None if adapter is None else str(adapter.get("base_model_name_or_path") or "")
    shards = None if weights else _shards(run)
    return Weights(folder, adapter is not None, shards, merged, base)


def _shards(run: Run) -> Checkpoint:
    """The last checkpoint, when it is complete, sharded, and of the training's end."""
    fix = f"end the training with `multitask train {run.root} --resume`"
    found = [c for c in list_checkpoints(run.model) if (c.path / SHARDS).is_dir()]
    if not found:
        raise InputError("the folder holds no weights", where=run.model, fix=fix)
    last = found[-1]
    if not last.complete:
        raise InputError(f"{last.state}: {'; '.join(last.problems)}", where=last.path, fix=fix)
    state = read_json(last.path / "trainer_state.json")
    if last.step < int(state.get("max_steps") or 0):
        raise InputError(
            f"training stopped at step {last.step} of {state['max_steps']}",
            where=last.path,
            fix=fix,
        )
    return last


def prepare(found: Weights, work: Path, report: Report) -> Path:
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
    if not found.merge and found.shards is None:
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
            merge_shards(found.shards.path, found.folder, source)
        if found.merge:
            report("merging the adapter into its base model")
            _merge_adapter(source, stage)
            if source != found.folder:
                shutil.rmtree(source)
        write_atomic(stage / mark.name, key)
    return out


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
            f"the adapter cannot be merged: {first_line(error)}", where=adapter, fix=fix
        ) from None
    whole.save_pretrained(out, max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(out)


def portable_adapter_config(path: Path, base: str) -> bytes:
    """An adapter's configuration that names its base by the repository that others have."""
    content = read_json(path)
    content["base_model_name_or_path"] = base
    return (json.dumps(content, indent=2) + "\n").encode()
