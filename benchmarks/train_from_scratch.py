"""Train a 2-million-parameter Llama from random weights on real data, through Axolotl, on a CPU.

    python benchmarks/train_from_scratch.py --data-dir ../shared/data --out runs/from-scratch

DATA_DIR holds banking77/ and commonsense_qa/ as the README describes. The script makes the model
and a spec; then it runs the same commands as a user: build-config, train, evaluate, report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from multitask.data.prepare import prepare_tasks
from multitask.spec import load_spec
from multitask.toy import write_toy_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=12)
    arguments = parser.parse_args()

    work = arguments.out.parent / f"{arguments.out.name}-input"
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    spec_path = work / "spec.yaml"
    spec = {
        "name": "from-scratch",
        "model": "./model",
        "tasks": ["banking77", "commonsense_qa"],
        "method": "full",
        "cluster": "cpu",
        "epochs": arguments.epochs,
        "split": {"train": 0.95},
        # One phrasing keeps the sequences short. CommonsenseQA is there to be mixed in: two
        # million random parameters hold no common sense.
        "templates": {"phrasings": 1},
        "mixture": {"caps": {"commonsense_qa": 500}},
        "sequence_len": 256,
        "learning_rate": 2.0e-3,
        "global_batch_size": 64,
        "data_dir": str(arguments.data_dir.resolve()),
        "checkpoint": {"save_steps": 0.2, "keep": 2},
        # Random weights know no language: learning the queries too, not the answers alone, teaches
        # them some. A pretrained model does not need that.
        "axolotl": {"train_on_inputs": True, "weight_decay": 0.05},
    }
    if not model.exists():
        # The model is made from the data's own words, so the spec is read once without it.
        spec_path.write_text(yaml.safe_dump(spec | {"model": "placeholder/model"}))
        prepared = prepare_tasks(load_spec(spec_path))
        rows = [json.loads(line) for line in prepared.lines("train")]
        texts = [message["content"] for row in rows for message in row["messages"]]
        print(f"model: {write_toy_model(model, texts):,} parameters")
    spec_path.write_text(yaml.safe_dump(spec, sort_keys=False))

    for command in (
        ["build-config", str(spec_path), "--out", str(arguments.out)],
        ["train", str(arguments.out)],
        ["evaluate", str(arguments.out)],
        ["report", str(arguments.out)],
    ):
        print(f"$ multitask {' '.join(command)}", flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "multitask", *command], check=True)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
