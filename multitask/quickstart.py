"""The quickstart: every command once, on the embedded sample, with a toy model."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
from rich.console import Console

from multitask.build import build_config
from multitask.data.prepare import Prepared
from multitask.errors import InputError
from multitask.quiet import quiet_libraries
from multitask.reports.terminal import print_results
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.spec import CheckpointSpec, Spec
from multitask.terminal import progress_bar
from multitask.toy import ToySize, write_toy_model

MODEL_DIR = "base_model"

NOTE = (
    "This is a toy: a small Llama with random weights, trained for a minute on a few hundred "
    "sentences. It proves that data, training, scoring and report work on this machine. Its "
    "scores say nothing about the quality of a real fine-tune."
)

_SIZE = ToySize(hidden=128, layers=2, heads=4, vocabulary=1500, context=256)


def quickstart_spec() -> Spec:
    """The spec of the quickstart; its model is made inside the run directory."""
    return Spec(
        name="quickstart",
        model=MODEL_DIR,
        tasks=("text_claims", "banking77", "commonsense_qa"),
        method="full",
        cluster="cpu",
        epochs=32,
        sequence_len=256,
        learning_rate=3e-3,
        global_batch_size=16,
        sample=True,
        checkpoint=CheckpointSpec(save_steps=0.25, keep=2),
    )


def run_quickstart(out: Path) -> Path:
    """Build, train, evaluate and report in ``out``.

    Returns:
        Path of report.html.

    Raises:
        InputError: ``out`` exists, or the `train` extra is missing.
        MultitaskError: A step failed.
    """
    from multitask.runners.axolotl.validate import axolotl_installed

    console = Console(stderr=True)
    if not axolotl_installed():
        raise InputError(
            "the quickstart trains with Axolotl, which is not installed",
            fix="pip install 'multitask[train]' (see the README)",
        )
    if out.exists() and any(out.iterdir()):
        raise InputError("exists already", where=out, fix="remove it, or choose another --out")
    start = time.perf_counter()
    quiet_libraries()
    console.print(f"[bold]multitask quickstart[/bold] in {out}\n{NOTE}\n", highlight=False)

    console.print("[bold]1/4[/bold] build: sample data, toy model, Axolotl configuration")
    built = build_config(
        quickstart_spec(),
        out,
        report=lambda message: console.print(f"    {message}", highlight=False),
        add_files=_add_toy,
    )
    console.print("[bold]2/4[/bold] train: accelerate launch -m axolotl.cli.train")
    log = _train(built.run)
    console.print("[bold]3/4[/bold] evaluate: every label of every test row")
    _evaluate(built.run)
    console.print("[bold]4/4[/bold] report")
    html, _ = write_report(built.run)
    minutes = (time.perf_counter() - start) / 60
    console.print(
        f"\ndone in {minutes:.1f} min; training log: {log}\n{NOTE}\nreport: {html.resolve()}",
        highlight=False,
        soft_wrap=True,
    )
    return html


def _add_toy(root: Path, prepared: Prepared) -> None:
    texts = [
        m["content"] for row in map(orjson.loads, prepared.lines("train")) for m in row["messages"]
    ]
    write_toy_model(root / MODEL_DIR, texts, size=_SIZE)
    (root / "notes.txt").write_text(NOTE + "\n", encoding="utf-8")


def _train(run: Run) -> Path:
    from multitask.training.train import train_with_display

    return train_with_display(run)


def _evaluate(run: Run) -> None:
    from multitask.evaluation.evaluate import evaluate

    with progress_bar() as bar:
        outcome = evaluate(run, progress=bar.update)
    print_results(outcome.results)
