"""The rehearsal's own run directory: few rows, a small model, the adapted configuration."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

import yaml

from multitask.cluster import Cluster
from multitask.data.readers import iterate_rows
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.rehearsal.adapt import Change, adapted, adapted_deepspeed, fit_ranks
from multitask.run import Run
from multitask.scoring.chat import TEMPLATE_FILE

MODEL = "base_model"
LAYERS = 2
_HEAD_DIM = 16

# Rows that are enough for some steps of many ranks and some questions of every task.
_ROWS = {"train": 960, "validation": 96, "test": 400}
_VOCABULARY, _VOCABULARY_ROWS = 2000, 2000

# Names that architectures give to the same size.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")


def stage_rehearsal(
    run: Run,
    small: Run,
    config: Mapping[str, Any],
    cluster: Cluster,
    *,
    nodes: int,
    procs: int,
    steps: int,
) -> list[Change]:
    """Write a rehearsal's run directory, and say what differs from the cluster's run.

    Args:
        run: The run as it was built.
        small: The rehearsal's; must not exist.
        config: The content of the run's ``axolotl.yaml``.
        cluster: What the run was built for.
        nodes: Nodes of the rehearsal.
        procs: Ranks of each.
        steps: Optimizer steps.

    Raises:
        InputError: The run has no rows, or nothing is known of its model's architecture.
    """
    run.require(run.split("train"), f"multitask build-config {run.spec} --out {run.root}")
    config, name = dict(config), str(config.get("base_model"))
    info = model_info(name, run.root)
    small.data.mkdir(parents=True)
    shutil.copy(run.spec, small.spec)
    shutil.copy(run.manifest, small.manifest)
    shutil.copy(run.accelerate, small.accelerate)
    if (run.root / TEMPLATE_FILE).is_file():
        shutil.copy(run.root / TEMPLATE_FILE, small.root / TEMPLATE_FILE)
    tokenizer, own = _tokenizer(run, name)
    changes = [_rows(run, small), _model(small, name, info, tokenizer, own=own)]
    if not own:
        why = "the tokenizer is another one"
        foreign = {"special_tokens", "eot_tokens", "chat_template_jinja"} & config.keys()
        changes += [Change(key, config.pop(key), None, why) for key in sorted(foreign)]
        if config.get("chat_template") == "jinja":
            changes.append(Change("chat_template", "jinja", "tokenizer_default", why))
            config["chat_template"] = "tokenizer_default"
    attention = info.attention_on(flash=False)
    config, forced = adapted(config, model=MODEL, steps=steps, attention=attention)
    changes += forced
    if run.deepspeed.is_file():
        engine, forced = adapted_deepspeed(json.loads(run.deepspeed.read_text(encoding="utf-8")))
        small.deepspeed.write_text(json.dumps(engine, indent=2) + "\n", encoding="utf-8")
        changes += forced
    changes += fit_ranks(config, cluster, nodes, procs)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    head = "# The rehearsal of the run above it: see changes in rehearsal.json.\n"
    small.axolotl.write_text(head + text, encoding="utf-8")
    return changes


def _rows(run: Run, small: Run) -> Change:
    """Copy the first rows of train, which are shuffled over tasks, and as many of each task."""
    for split, most in _ROWS.items():
        if not run.split(split).is_file():
            continue
        with run.split(split).open("rb") as file:
            if split == "train":
                lines = list(islice(file, most))
            else:
                tasks = [row["task"] for row in iterate_rows(run.split(split))]
                each = most // max(1, len(set(tasks)))
                seen: Counter[str] = Counter()
                lines = []
                for task, line in zip(tasks, file, strict=True):
                    seen[task] += 1
                    lines += [line] if seen[task] <= each else []
        small.split(split).write_bytes(b"".join(lines))
    now = f"up to {_ROWS['train']} rows of train, {_ROWS['validation']} of validation"
    return Change("data", "all rows", now, "a rehearsal is short", "rows that were left out")


def _model(small: Run, name: str, info: ModelInfo, tokenizer: Any, *, own: bool) -> Change:
    if info.config is None or "model_type" not in info.config:
        raise InputError(
            f"nothing is known of the architecture of {name}, so it cannot be shrunk",
            where="key 'model'",
            fix="download its config.json once (`hf download MODEL config.json`), or give a folder",
        )
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    keys = shrunk(info.config, vocab_size=len(tokenizer))
    for token in ("eos", "bos", "pad"):
        keys[f"{token}_token_id"] = getattr(tokenizer, f"{token}_token_id")
    set_seed(0)
    shape = AutoConfig.for_model(keys.pop("model_type"), **keys)
    model = AutoModelForCausalLM.from_config(shape)
    model.save_pretrained(small.root / MODEL)
    tokenizer.save_pretrained(small.root / MODEL)
    before = "an unknown number of" if info.shape is None else f"{info.shape.parameters:,}"
    whose = "its own tokenizer" if own else "a tokenizer trained on the rows"
    total = sum(parameter.numel() for parameter in model.parameters())
    return Change(
        "model",
        f"{name}: {before} parameters",
        f"{type(model).__name__}: {total:,} random parameters, {whose}",
        "fewer and narrower layers of the same classes"
        + ("" if own else "; its own tokenizer is not on this machine"),
        "the quality of the model; numerical behaviour at full width"
        + ("" if own else "; its own tokens and chat template"),
    )


def _tokenizer(run: Run, name: str) -> tuple[Any, bool]:
    """The model's own tokenizer where it is on this machine, else one trained on the rows."""
    from transformers import AutoTokenizer

    folder = run.root / name
    try:
        source = str(folder) if folder.is_dir() else name
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        from multitask.toy import train_tokenizer

        rows = islice(iterate_rows(run.split("train")), _VOCABULARY_ROWS)
        texts = (message["content"] for row in rows for message in row["messages"])
        return train_tokenizer(texts, vocabulary=_VOCABULARY), False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, True


def shrunk(config: Mapping[str, Any], *, vocab_size: int) -> dict[str, Any]:
    """The keys of a small config.json of the same architecture.

    Layers become two, heads the fewest that keep the ratio of query to key heads, a head 16
    features, and the MLP keeps its ratio to the hidden size. Everything else (activation, norms,
    positions, windows, tied embeddings) stays, so that the same code runs.
    """
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]

    def first(names: tuple[str, ...]) -> int:
        return next((int(config[name]) for name in names if config.get(name) is not None), 0)

    heads = first(_HEADS) or 1
    kv_heads = first(_KV_HEADS) or heads
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1
    ratio = max(1, min(8, heads // kv_heads))
    kv = 2 if ratio <= 2 else 1
    hidden = kv * ratio * _HEAD_DIM
    sizes = {_LAYERS: LAYERS, _HEADS: kv * ratio, _KV_HEADS: kv, _HIDDEN: hidden}
    if first(_INNER) and first(_HIDDEN):
        sizes[_INNER] = max(8, round(first(_INNER) / first(_HIDDEN) * hidden / 8) * 8)
    sizes[("head_dim", "query_pre_attn_scalar")] = _HEAD_DIM
    small = dict(config)
    for names, value in sizes.items():
        small |= {name: value for name in names if config.get(name) is not None}
    if isinstance(config.get("layer_types"), list):
        small["layer_types"] = config["layer_types"][:LAYERS]
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(key), Mapping):
            # Long-rope factors are one for each rotated pair of features.
            rotated = int(_HEAD_DIM * float(config.get("partial_rotary_factor") or 1.0)) // 2
            small[key] = {
                name: value[:rotated]
                if name.endswith("_factor") and isinstance(value, list)
                else value
                for name, value in config[key].items()
            }
    small["vocab_size"] = vocab_size
    # Some architectures have token ids beyond a small vocabulary by default.
    small |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    small.pop("quantization_config", None)
    return small
