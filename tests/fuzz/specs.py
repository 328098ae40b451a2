"""Broken specs."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz.values import places, put, take, typo, weird

_ROWS = [("I want to pay the bill", "billing"), ("where is my parcel", "delivery")]

_OWN: dict[str, Any] = {
    "name": "mine",
    "kind": "classification",
    "source": {"path": "data.csv"},
    "columns": {"text": "text", "label": "label"},
    "labels": ["billing", "delivery"],
    "template": {"prompt": "Which?\n{{ text }}", "response": "{{ label }}", "name": "own"},
    "max_bad_rows": 1,
}
_FULL: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "tasks": [_OWN],
    "general": ["text_claims"],
    "name": "first",
    "method": "lora",
    "cluster": "3x4-a100-80gb",
    "sharding": "auto",
    "cpu_offload": False,
    "epochs": 2,
    "split": {"train": 0.5},
    "templates": {"phrasings": 1, "list_labels": True, "answers": "letter", "format": "auto"},
    "mixture": {
        "strategy": "weights",
        "weights": {"mine": 2},
        "caps": {"mine": 10},
        "epochs": {"mine": 2},
    },
    "leakage": {"near_duplicates": True, "threshold": 0.8},
    "seed": 42,
    "sequence_len": 512,
    "learning_rate": 0.0002,
    "global_batch_size": 96,
    "sample": True,
    "checkpoint": {"save_steps": 0.1, "keep": 3, "mtbf_hours": 24, "max_minutes": 30},
    "evaluation": {
        "rows_per_task": 8,
        "share": 0.02,
        "floor": {"mine": 0.5},
        "early_stopping": {"patience": 2},
    },
    "balance": {"loss_weights": {"mine": 2.0}, "schedule": "lagging"},
    "tracking": {"wandb": {"project": "p", "entity": None, "name": "n"}},
    "hub": {"repo": "owner/name"},
    "axolotl": {"micro_batch_size": 2, "lora_r": 8, "special_tokens": {"pad_token": "<pad>"}},
}
_SMALL: dict[str, Any] = {
    "model": "owner/model",
    "cluster": "cpu",
    "method": "full",
    "tasks": [_OWN],
    "leakage": {"near_duplicates": False},
}
_CLUSTER: dict[str, Any] = {
    "description": "my own",
    "nodes": 2,
    "gpus_per_node": 4,
    "gpu": "A100",
    "memory_gb": 80,
    "compute_capability": "sm_80",
    "bf16_tflops": 312,
    "intra_node_gb_s": 300,
    "inter_node_gb_s": 25,
    "price": {"usd_per_gpu_hour": 1.5, "source": "x", "date": "2026-01-01"},
}
_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip
_TEXTS = [
    "",
    "\n",
    "- a\n- b\n",
    "just words",
    "a: b: c",
    "\t\tx: 1",
    "model: [",
    "model: &a [*a]\ntasks: [text_claims]",
    "tasks: &t\n  x: *t\nmodel: m",
    _BOMB + "model: m\ntasks: *i\n",
    _BOMB.replace("[", "{<<: [").replace("]", "]}") + "model: m\n",
    "model: m\ntasks: " + "[" * 500 + "]" * 500,
    "model: m\ntasks: " + "{a: " * 800 + "1" + "}" * 800,
    "model: m\ntasks: [text_claims]\nseed: 0x" + "f" * 4300,
    "model: m\ntasks: [text_claims]\nseed: " + "9" * 5000,
    "model: m\ntasks: [text_claims]\nseed: 1:" + ":".join(["59"] * 900),
    "model: m\ntasks: [text_claims]\nname: 2024-02-30",
    "model: m\ntasks: [text_claims]\nname: 2024-02-20",
    "model: m\ntasks: [text_claims]\nname: !!timestamp x",
    "model: m\ntasks: [text_claims]\nname: !!python/object/apply:os.system [id]",
    "model: m\ntasks: [text_claims]\nname: !!binary '###'",
    "model: m\ntasks: [text_claims]\nepochs: !!float x",
    "model: m\ntasks: [text_claims]\nseed: !!int ''",
    "model: m\ntasks: [text_claims]\n? [a, b]\n: c",
    "model: m\ntasks: [text_claims]\n? {a: b}\n: c",
    "model: m\ntasks: [text_claims]\n<<: [1]",
    "model: m\ntasks: [text_claims]\nmodel: n",
    "model: m\ntasks: [text_claims]\n1: 2\n",
    "model: m\ntasks: [text_claims]\nnull: 2\n",
    "%YAML 3.0\n---\nmodel: m",
    "---\nmodel: m\n---\nmodel: n",
    "model: m\ntasks: [*nothing]",
    "\ufeffmodel: m\ntasks: [text_claims]",
]


def make_spec(random: Random, folder: Path) -> list[str]:
    """Write a spec that is probably wrong, and the command that reads it."""
    world(folder)
    base = copy.deepcopy(_FULL if random.random() < 0.5 else _SMALL)
    if random.random() < 0.1:
        base["cluster"] = "cluster.yaml"
        cluster = copy.deepcopy(_CLUSTER)
        mutate(cluster, random)
        (folder / "cluster.yaml").write_bytes(encoded(cluster))
    else:
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            mutate(base, random)
    data = encoded(base)
    if random.random() < 0.12:
        data = torn(data, random)
    elif random.random() < 0.06:
        data = random.choice(_TEXTS).encode("utf-8", "surrogatepass")
    (folder / "spec.yaml").write_bytes(data)
    way = random.random()
    if way < 0.15:
        return ["build-config", "spec.yaml", "--out", "run", "--no-validate"]
    if way < 0.25:
        return ["estimate", "spec.yaml"]
    return ["prepare", "spec.yaml", "--out", "run"]


def world(folder: Path) -> None:
    """Files that a spec may name."""
    rows = "".join(f"{text} number {i},{label}\n" for i in range(8) for text, label in _ROWS)
    (folder / "data.csv").write_text("text,label\n" + rows)
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")


def mutate(content: dict[str, Any], random: Random) -> None:
    """Change one thing."""
    found = places(content)
    path = random.choice(found)
    way = random.random()
    if way < 0.7:
        put(content, path, weird(random))
    elif way < 0.8:
        take(content, path)
    elif way < 0.92 and isinstance(path[-1], str):
        value = take(content, path)
        put(content, (*path[:-1], typo(path[-1], random)), value)
    else:
        other = random.choice(found)
        here: Any = content
        for key in other[:-1]:
            here = here[key]
        if isinstance(here, dict):
            here[random.choice(["extra", "path", "name", "epochs", "prompt", "price"])] = weird(
                random
            )


def encoded(content: Any) -> bytes:
    try:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    except (RecursionError, yaml.YAMLError):
        text = repr(content)
    return text.encode("utf-8", "surrogatepass")


def torn(data: bytes, random: Random) -> bytes:
    """Bytes cut, flipped, doubled or put in."""
    at = random.randrange(max(1, len(data)))
    way = random.randrange(5)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    if way == 2:
        lines = data.splitlines(keepends=True)
        line = random.randrange(len(lines))
        return b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
    if way == 3:
        put_in = random.choice(
            [b"\x00", b"\xff\xfe", b"\t", b"[", b"}", b"&a ", b"*a", b"!!int ", b"? "]
        )
        return data[:at] + put_in + data[at:]
    return data.decode("utf-8", "replace").encode("utf-16")
