"""What multitask's plugin costs inside a training, against steps without it in the same run.

    python benchmarks/plugin_overhead.py --data-dir ../shared/data --work runs/plugin-overhead

A 2-million-parameter Llama is trained on banking77 and CommonsenseQA with the default cadence. The
watching of losses by task is on and off in turns, step by step (on, off, off, on, ...), so drifts
of the machine meet both; and what watching adds to a step is timed by itself. Evaluation is timed
as a whole, batches made and metrics logged included, against the training's time without it.
Times are the process's processor time: other work on the machine would drown a percent.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

RESULT = "steps.json"


def build(arguments: argparse.Namespace) -> Path:
    """Make model and run; the run's plugin is the one below."""
    from multitask.build import build_config
    from multitask.data.prepare import prepare_tasks
    from multitask.spec import load_spec
    from multitask.toy import write_toy_model

    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    spec = {
        "model": "./model",
        "tasks": ["banking77", "commonsense_qa"],
        "method": "full",
        "cluster": "cpu",
        "epochs": 1,
        "templates": {"phrasings": 1},
        "sequence_len": 256,
        "learning_rate": 2.0e-3,
        "global_batch_size": 64,
        "data_dir": str(arguments.data_dir.resolve()),
        # Rows of like length together would make a step's work depend on where it falls.
        "axolotl": {"max_steps": arguments.steps, "group_by_length": False},
    }
    path = work / "spec.yaml"
    path.write_text(yaml.safe_dump(spec | {"model": "placeholder/model"}))
    prepared = prepare_tasks(load_spec(path))
    rows = [json.loads(line) for line in prepared.lines("train")]
    texts = [message["content"] for row in rows for message in row["messages"]]
    write_toy_model(work / "model", texts)
    path.write_text(yaml.safe_dump(spec))
    run = build_config(load_spec(path), work / "run", validate=False).run
    config = yaml.safe_load(run.axolotl.read_text())
    config["plugins"] = ["plugin_overhead.TimingPlugin"]
    run.axolotl.write_text(yaml.safe_dump(config))
    return run.root


def _timing_plugin() -> type:
    """The plugin of a run, which also times steps and switches the balance off for half of them."""
    from transformers import TrainerCallback

    from multitask.plugin import MultitaskPlugin

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self, trainer: Any, path: Path) -> None:
            self.trainer, self.path = trainer, path
            self.balance: Any = None
            self.steps: list[tuple[bool, float]] = []
            self.evaluations: list[float] = []
            self.began = self.step_began = 0.0
            self.watching: list[float] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.balance, self.began = self.trainer.balance, time.process_time()
            plain = self.trainer.evaluate
            self._time_watching()

            def evaluate(*more: Any, **named: Any) -> Any:
                start = time.process_time()
                metrics = plain(*more, **named)
                self.evaluations.append(time.process_time() - start)
                return metrics

            self.trainer.evaluate = evaluate

        def _time_watching(self) -> None:
            """Time what the balance does around the trainer's own loss."""
            compute = self.balance.compute_loss

            def timed(plain: Any, *more: Any, **options: Any) -> Any:
                inside = 0.0

                def plain_timed(*its: Any) -> Any:
                    nonlocal inside
                    start = time.process_time()
                    loss = plain(*its)
                    inside += time.process_time() - start
                    return loss

                start = time.process_time()
                loss = compute(plain_timed, *more, **options)
                self.watching.append(time.process_time() - start - inside)
                return loss

            self.balance.compute_loss = timed

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.on = state.global_step % 4 in (0, 3)
            self.trainer.balance = self.balance if self.on else None
            self.step_began = time.process_time()

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            """Forward and backward are over: the optimizer's part has nothing of ours."""
            self.steps.append((self.on, time.process_time() - self.step_began))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.trainer.balance = self.balance  # whose callback reads it

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            record = {
                "steps": self.steps,
                "evaluations": self.evaluations,
                "watching": self.watching,
                "seconds": time.process_time() - self.began,
            }
            self.path.write_text(json.dumps(record))

    class Plugin(MultitaskPlugin):
        def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
            super().post_trainer_create(cfg, trainer)
            timer = Timer(trainer, self.run.root / RESULT)
            # First of all callbacks, so that the balance's own follows it.
            trainer.callback_handler.callbacks.insert(0, timer)

    return Plugin


def __getattr__(name: str) -> Any:
    """The plugin, made when Axolotl asks for it: this file is read without Axolotl as well."""
    if name == "TimingPlugin":
        return _timing_plugin()
    raise AttributeError(name)


def interval(on: list[float], off: list[float]) -> tuple[float, float, float]:
    """Overhead of the median step in percent, with a 95 % bootstrap interval."""

    def overhead(first: list[float], second: list[float]) -> float:
        return 100 * (statistics.median(first) / statistics.median(second) - 1)

    draw = random.Random(0)
    drawn = sorted(
        overhead(draw.choices(on, k=len(on)), draw.choices(off, k=len(off))) for _ in range(1000)
    )
    return overhead(on, off), drawn[25], drawn[974]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    root = build(arguments)
    here = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    environment = dict(os.environ) | {"AXOLOTL_DO_NOT_TRACK": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(root / "accelerate.yaml"), "-m", "axolotl.cli.train"]
    with (root / "train.log").open("w") as log:
        subprocess.run(
            [*command, str(root / "axolotl.yaml")],
            check=True, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    record = json.loads((root / RESULT).read_text())
    steps = record["steps"][4:]  # the first ones warm up
    on, off = ([seconds for was_on, seconds in steps if was_on is which] for which in (True, False))
    mid, low, high = interval(on, off)
    evaluating = sum(record["evaluations"])
    share = 100 * evaluating / (record["seconds"] - evaluating)
    on_steps = sum(was_on for was_on, _ in record["steps"])
    added = sum(record["watching"]) / on_steps / statistics.mean(off) * 100
    print(f"| {len(steps)} steps, median without | {statistics.median(off):.3f} s |")
    print(f"| steps with watching against those without | {mid:+.2f} % ({low:+.2f}, {high:+.2f}) |")
    print(f"| watching, timed by itself | {added:.2f} % |")
    print(f"| {len(record['evaluations'])} evaluations | {evaluating:.2f} s, {share:.2f} % |")
    print(f"| together | {added + share:.2f} % |")


if __name__ == "__main__":
    main()
