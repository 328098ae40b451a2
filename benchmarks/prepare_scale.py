"""Rows per second and memory of `multitask prepare`, beside what people use otherwise.

    python benchmarks/prepare_scale.py --rows 1000000 5000000

Makes a CSV classification set of N rows (own synthetic sentences, 50 labels), then runs, each as
a process of its own and in turn:

- multitask: split, exact/normalised duplicate and leakage gate, templates, JSONL, manifest, plan;
- datasets: `load_dataset("csv")`, `map` to messages, `to_json` (no split, no gate);
- loop: csv.reader to orjson, the least that can be done (no split, no gate).

Wall time and peak resident memory are those of the finished process and its children, from the
operating system.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_VERBS = ["lost", "found", "sent", "paid", "moved", "asked", "waited", "closed", "opened", "booked"]
_THINGS = [
    "card",
    "account",
    "transfer",
    "refund",
    "order",
    "parcel",
    "invoice",
    "ticket",
    "letter",
    "contract",
]

_DATASETS = """
import sys
from datasets import load_dataset
path, out = sys.argv[1:]
rows = load_dataset("csv", data_files=path, split="train", cache_dir=out + ".cache")
rows = rows.map(lambda row: {"messages": [
    {"role": "user", "content": "Classify the text.\\n\\n" + row["text"]},
    {"role": "assistant", "content": row["label"]}]}, num_proc=2)
rows.to_json(out)
"""

_LOOP = """
import csv, sys, orjson
path, out = sys.argv[1:]
with open(path, newline="") as source, open(out, "wb") as target:
    reader = csv.reader(source)
    next(reader)
    for text, label in reader:
        target.write(orjson.dumps({"messages": [
            {"role": "user", "content": "Classify the text.\\n\\n" + text},
            {"role": "assistant", "content": label}]}, option=orjson.OPT_APPEND_NEWLINE))
"""


def make_csv(path: Path, rows: int) -> None:
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            text = (
                f"I {rng.choice(_VERBS)} the {rng.choice(_THINGS)} number {i}, and "
                f"{rng.choice(_VERBS)} {rng.choice(_THINGS)} {rng.randrange(10**6)} since."
            )
            writer.writerow([text, f"label_{rng.randrange(50):02d}"])


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak memory in GiB of the largest process."""
    before = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]} failed")
    return time.perf_counter() - before, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("| rows | what | seconds (median) | rows/s | peak GiB |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            _compare(Path(folder), rows, arguments.repeat, arguments.peers)


def _compare(folder: Path, rows: int, repeat: int, peers: bool) -> None:
    path = folder / "data.csv"
    make_csv(path, rows)
    spec = folder / "spec.yaml"
    spec.write_text(
        "model: owner/model\n"
        "tasks:\n  - {name: big, kind: classification, source: {path: data.csv}}\n"
        "leakage: {near_duplicates: false}\n"
    )
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1"}
    commands = {
        "multitask prepare": [sys.executable, "-m", "multitask", "prepare", str(spec)],
    }
    if peers:
        commands["datasets map + to_json"] = [sys.executable, "-c", _DATASETS, str(path)]
        commands["csv.reader to orjson"] = [sys.executable, "-c", _LOOP, str(path)]
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(repeat):
        for name, command in commands.items():
            out = folder / f"{name.split()[0]}-{turn}"
            last = ["--out", str(out)] if name.startswith("multitask") else [str(out)]
            results[name].append(measure([*command, *last], environment))
            subprocess.run(["rm", "-rf", str(out), f"{out}.cache"], check=True)
    for name, found in results.items():
        seconds = sorted(s for s, _ in found)[len(found) // 2]
        memory = max(m for _, m in found)
        print(
            f"| {rows:,} | {name} | {seconds:.1f} | {rows / seconds:,.0f} | {memory:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
