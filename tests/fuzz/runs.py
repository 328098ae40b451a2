"""Damaged runs: copies of one that was built and evaluated, with something broken in it."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.harness import Make
from tests.fuzz.specs import torn
from tests.fuzz.values import places, put, take, typo, weird

_WHOLE = [
    b"",
    b"\x00",
    b"{}",
    b"[]",
    b"null",
    b"1",
    b'"x"',
    b"garbage",
    b"{" * 100_000,
    b"[" * 100_000,
    b"\xff\xfe",
]
_MODEL = ("model/", "toy/")


def base_run(folder: Path) -> Path:
    """Build a run with a toy model, give it a model and a log, and evaluate it twice."""
    import yaml

    from multitask.build import build_config
    from multitask.evaluation.evaluate import evaluate
    from multitask.reports.write import write_report
    from multitask.run import Run
    from multitask.spec import load_spec
    from multitask.toy import ToySize, write_toy_model

    texts = ["classify this claim", "water damage in the kitchen", "where is my card?"] * 30
    size = ToySize(hidden=16, layers=1, heads=2, vocabulary=300, context=256)
    write_toy_model(folder / "toy", texts, size=size)
    rows = "".join(
        f"{word} parcel number {i},{word}\n" for i in range(20) for word in ("late", "lost")
    )
    (folder / "data.csv").write_text("text,label\n" + rows)
    own = {"name": "mine", "kind": "classification", "source": {"path": "data.csv"}}
    spec = {
        "model": "toy",
        "tasks": [own, "commonsense_qa"],
        "cluster": "cpu",
        "method": "full",
        "sample": True,
        "leakage": {"near_duplicates": False},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    run = Run(folder / "run")
    build_config(load_spec(folder / "spec.yaml"), run.root, validate=False)
    shutil.copytree(folder / "toy", run.model)
    logs(run.root)
    evaluate(run, limit=3, base=True)
    write_report(run)
    return folder


def logs(run: Path) -> None:
    """What the plugin writes while it trains, and an unfinished checkpoint."""
    (run / "logs").mkdir(exist_ok=True)
    events: list[dict[str, Any]] = [
        {"event": "start", "time": 0.0, "step": 0, "max_steps": 4, "values": {}}
    ]
    events += [
        {"event": "log", "time": float(i), "step": i, "max_steps": 4, "values": {"loss": 3.0 / i}}
        for i in (1, 2, 3, 4)
    ]
    events.append({"event": "end", "time": 5.0, "step": 4, "max_steps": 4, "values": {}})
    lines(run / "logs" / "trainer.jsonl", events)
    evaluated = [{"step": i, "eval/exact_match/mine": 0.1 * i, "eval/rows/mine": 4} for i in (2, 4)]
    lines(run / "logs" / "evaluation.jsonl", evaluated)
    lines(run / "logs" / "balance.jsonl", [{"step": i, "train/mine/tokens": 40} for i in (1, 2)])
    checkpoint = run / "model" / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(
        json.dumps({"global_step": 2, "log_history": []})
    )
    (checkpoint / "config.json").write_bytes((run / "model" / "config.json").read_bytes())


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_damaged(base: Path) -> Make:
    """Cases over a copy of a base run."""
    return partial(_make, base)


def _make(base: Path, random: Random, folder: Path) -> list[str]:
    shutil.copytree(base, folder, dirs_exist_ok=True)
    run = folder / "run"
    everything = sorted(path for path in run.rglob("*") if path.is_file())
    heavy = random.random() < 0.12
    found = [p for p in everything if heavy or not str(p.relative_to(run)).startswith(_MODEL)]
    for _ in range(random.choice([1, 1, 1, 2])):
        path = random.choice(found)
        if path.is_file() and not path.is_symlink():
            damage(path, random)
    if heavy:
        return random.choice([
            ["evaluate", "run", "--limit", "2", "--name", "again", "--no-baselines"],
            ["export", "run", "--lm-eval", "exported", "--limit", "2"],
            ["push", "run", "owner/name"],
        ])  # fmt: skip
    return random.choice([
        ["report", "run"],
        ["report", "run"],
        ["report", "run", "--name", "base"],
        ["checkpoints", "run", "--verify"],
        ["init", "--preset", "single-task", "--from", "run", "single"],
        ["estimate", "run/spec.yaml"],
        ["push", "run", "owner/name"],
    ])  # fmt: skip


def damage(path: Path, random: Random) -> None:
    """Break a file."""
    data = path.read_bytes()
    way = random.random()
    if way < 0.3:
        path.write_bytes(torn(data or b"x", random))
    elif way < 0.6 and path.suffix in (".json", ".jsonl"):
        path.write_bytes(other_json(data, path.suffix, random))
    elif way < 0.7:
        path.write_bytes(random.choice(_WHOLE))
    elif way < 0.8:
        path.unlink()
    elif way < 0.85:
        path.chmod(0)
    else:
        path.unlink()
        replace(path, data, random)


def replace(path: Path, data: bytes, random: Random) -> None:
    """Put something else in a file's place."""
    way = random.randrange(5)
    if way == 0:
        path.mkdir()
    elif way == 1:
        path.symlink_to(path.name)
    elif way == 2:
        path.symlink_to("nowhere")
    elif way == 3:
        path.symlink_to(os.devnull)
    else:
        siblings = sorted(p for p in path.parent.iterdir() if p.is_file())
        path.write_bytes(random.choice(siblings).read_bytes() if siblings else data[::-1])


def other_json(data: bytes, suffix: str, random: Random) -> bytes:
    """The same JSON with one thing changed."""
    parts = data.splitlines() if suffix == ".jsonl" else [data]
    at = random.randrange(len(parts)) if parts else 0
    try:
        content = json.loads(parts[at])
    except (ValueError, IndexError):
        return b"{}"
    found = places(content)
    if found:
        path = random.choice(found)
        way = random.random()
        if way < 0.5:
            put(content, path, weird(random))
        elif way < 0.8 or not isinstance(path[-1], str):
            take(content, path)
        else:
            put(content, (*path[:-1], typo(path[-1], random)), take(content, path))
    parts[at] = json.dumps(content, default=str).encode()
    return b"\n".join(parts)
