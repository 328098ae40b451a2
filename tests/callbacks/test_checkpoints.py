"""The callback inside a real trainer: marks, rotates, skips, stops."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from multitask.callbacks import checkpoints as module
from multitask.callbacks.checkpoints import CheckpointCallback
from multitask.checkpoints import MARKER, list_checkpoints, newest_complete, read_marker
from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.training.attempts import ATTEMPT, Attempts, NodeReport
from multitask.training.failure import is_full_disk

ROWS = [{"input_ids": [i + 1, i + 2, i + 3], "labels": [i + 1, i + 2, i + 3]} for i in range(48)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.data.mkdir(parents=True)
    run.spec.write_text("model: x\n")
    run.axolotl.write_text("learning_rate: 0.1\n")
    run.manifest.write_text(json.dumps({"files": {"train.jsonl": {"sha256": "rows"}}}))
    return run


def trainer_of(run: Run, toy: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    """A trainer of 12 steps that saves every third."""
    arguments = TrainingArguments(
        output_dir=str(run.model),
        max_steps=12,
        per_device_train_batch_size=4,
        save_strategy="steps",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"save_steps": 3, "save_total_limit": 2} | options,
    )
    model = AutoModelForCausalLM.from_pretrained(toy)
    return Trainer(
        model,
        arguments,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        callbacks=[CheckpointCallback(run, look_seconds=0), *callbacks],
    )


def events(run: Run, name: str) -> list[dict[str, Any]]:
    lines = run.trainer_events.read_text().splitlines() if run.trainer_events.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def steps_of(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(run.model) if checkpoint.complete]


class At(TrainerCallback):
    """Does something once, at an event of a step."""

    def __init__(self, event: str, step: int, action: Any) -> None:
        def act(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                action()

        setattr(self, f"on_{event}", act)


def test_every_save_is_marked_and_the_newest_are_kept(run: Run, toy: Path) -> None:
    trainer = trainer_of(run, toy)
    trainer.train()
    assert steps_of(run) == [9, 12]
    assert [event["complete"] for event in events(run, "checkpoint")] == [True] * 4
    assert trainer.args.save_total_limit is None
    newest = newest_complete(run.model, contents=True)
    assert newest is not None
    assert newest.marker is not None
    on_disk = {p.relative_to(newest.path).as_posix() for p in newest.path.rglob("*") if p.is_file()}
    assert set(newest.marker.files) == on_disk - {MARKER}


def test_a_torn_save_is_told_and_never_counts(run: Run, toy: Path) -> None:
    """Its optimizer is lost, as with one that cannot be saved; the good one before it stays."""
    trainer = trainer_of(run, toy)
    real = trainer._save_optimizer_and_scheduler

    def lose(folder: str) -> None:
        real(folder)
        if trainer.state.global_step > 6:
            (Path(folder) / "optimizer.pt").unlink()

    trainer._save_optimizer_and_scheduler = lose
    trainer.train()
    assert steps_of(run) == [3, 6]
    assert [e["complete"] for e in events(run, "checkpoint")] == [True, True, False, False]
    assert events(run, "checkpoint")[2]["problems"] == ["optimizer.pt is missing"]
    assert read_marker(run.model / "checkpoint-9") is None


def test_the_best_complete_checkpoint_outlives_a_torn_better_one(run: Run, toy: Path) -> None:
    """transformers 5.16 names step 6 the best before it is written (trainer.py:
    ``_determine_best_metric`` in ``_maybe_log_save_evaluate``, then ``_save_checkpoint``)."""
    trainer = trainer_of(
        run, toy, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=False,
    )  # fmt: skip
    losses = {3: 1.0, 6: 0.5, 9: 2.0, 12: 3.0}
    trainer.evaluate = lambda *_, **__: {"eval_loss": losses[trainer.state.global_step]}
    real = trainer._save_optimizer_and_scheduler

    def lose(folder: str) -> None:
        real(folder)
        if trainer.state.global_step == 6:
            (Path(folder) / "optimizer.pt").unlink()

    trainer._save_optimizer_and_scheduler = lose
    trainer.train()
    assert steps_of(run) == [3, 9, 12]
    assert trainer.state.best_model_checkpoint == str(run.model / "checkpoint-3")
    assert trainer.state.best_metric == 1.0


def test_a_request_to_stop_saves_and_ends_the_process(
    run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPT, "1")
    ask = At("step_begin", 4, lambda: Attempts(run).ask_to_stop(1, "SIGTERM"))
    with pytest.raises(SystemExit) as ended:
        trainer_of(run, toy, ask).train()
    assert ended.value.code == 0
    assert steps_of(run) == [3, 5]
    assert [event["step"] for event in events(run, "stopped")] == [5]


def test_a_request_at_the_last_step_lets_the_training_end(
    run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPT, "1")
    trainer_of(run, toy, At("step_begin", 11, lambda: Attempts(run).ask_to_stop(1, "x"))).train()
    assert steps_of(run)[-1] == 12
    assert events(run, "stopped") == []


def test_a_request_of_an_earlier_attempt_is_not_obeyed(
    run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTEMPT, "2")
    Attempts(run).ask_to_stop(1, "SIGTERM")
    trainer_of(run, toy).train()
    assert steps_of(run)[-1] == 12


@pytest.fixture
def small_disk(run: Run) -> Iterator[Path]:
    """A file system of its own below the run's model."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    run.model.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(run.model)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nothing be mounted")
    yield run.model
    subprocess.run(["umount", "--lazy", str(run.model)], check=True)


def fill(folder: Path, left: int) -> None:
    """Fill a file system up to some bytes."""
    free = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        file.write(b"x" * max(0, free.f_bavail * free.f_frsize - left))


def test_without_room_a_save_is_skipped_and_training_goes_on(
    run: Run, toy: Path, small_disk: Path
) -> None:
    """The last save is tried all the same, for the final model may be made from it."""
    trainer = trainer_of(run, toy, At("step_begin", 7, lambda: fill(small_disk, 10_000)))
    with pytest.raises((OSError, RuntimeError, SafetensorError)) as died:
        trainer.train()
    assert is_full_disk(NodeReport("failed", error=str(died.value)))
    assert trainer.state.global_step == 12
    assert [event["step"] for event in events(run, "save_skipped")] == [9]
    assert steps_of(run) == [3, 6]
    assert newest_complete(run.model, contents=True) is not None


def test_a_disk_that_fills_during_a_save_costs_no_good_checkpoint(
    run: Run, toy: Path, small_disk: Path
) -> None:
    trainer = trainer_of(run, toy)
    real = trainer._save_optimizer_and_scheduler

    def filled(folder: str) -> None:
        if trainer.state.global_step == 9:
            fill(small_disk, 0)
        real(folder)

    trainer._save_optimizer_and_scheduler = filled
    with pytest.raises((OSError, RuntimeError, SafetensorError)) as died:
        trainer.train()
    assert is_full_disk(NodeReport("failed", error=str(died.value)))
    assert steps_of(run) == [3, 6]
    newest = newest_complete(run.model, contents=True)
    assert newest is not None
    assert newest.step == 6


def test_old_checkpoints_make_room_down_to_two(run: Run, toy: Path, small_disk: Path) -> None:
    def leave_half_a_checkpoint() -> None:
        newest = newest_complete(run.model)
        assert newest is not None
        fill(small_disk, newest.size // 2)

    ask = At("step_begin", 9, leave_half_a_checkpoint)
    trainer_of(run, toy, ask, save_steps=2, save_total_limit=9).train()
    assert steps_of(run) == [6, 8, 10, 12]
    assert events(run, "save_skipped") == []


def test_files_that_a_slow_volume_shows_late_are_waited_for(run: Run, toy: Path) -> None:
    trainer_of(run, toy).train()
    folder = run.model / "checkpoint-12"
    marker = read_marker(folder)
    assert marker is not None
    hidden = shutil.move(folder / "rng_state.pth", run.root / "hidden")
    late = threading.Timer(0.5, shutil.move, (hidden, folder / "rng_state.pth"))
    late.start()
    assert module._verify(folder, dict(marker.files)) == []
    late.join()


def test_files_that_never_show_point_to_a_volume_that_is_not_shared(
    run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VISIBLE_SECONDS", 0.2)
    trainer_of(run, toy).train()
    folder = run.model / "checkpoint-12"
    marker = read_marker(folder)
    assert marker is not None
    (folder / "rng_state.pth").unlink()
    (problem,) = module._verify(folder, dict(marker.files))
    assert "rng_state.pth" in problem
    assert "a volume that all nodes share" in problem


def test_the_last_checkpoint_of_fsdp_may_not_be_torn(run: Run, toy: Path) -> None:
    """Axolotl would merge it into the final model."""
    trainer = trainer_of(run, toy)
    real = trainer._save_optimizer_and_scheduler

    def shards_without_metadata(folder: str) -> None:
        real(folder)
        if trainer.state.global_step == 12:
            (Path(folder) / "pytorch_model_fsdp_0").mkdir()
            (Path(folder) / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"x")

    trainer._save_optimizer_and_scheduler = shards_without_metadata
    with pytest.raises(MultitaskError, match="final model"):
        trainer.train()
    assert steps_of(run) == [6, 9]


def test_between_looks_nothing_is_read_and_at_a_save_everything_is(
    run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look reads the shared volume, and broadcasts; a save comes at steps all know of."""
    looked: list[int] = []
    trainer = trainer_of(run, toy)
    callback = next(
        c for c in trainer.callback_handler.callbacks if isinstance(c, CheckpointCallback)
    )
    callback._look_seconds = 1e6

    def stop_requested(_run: Run) -> bool:
        looked.append(trainer.state.global_step)
        return False

    monkeypatch.setattr(module, "stop_requested", stop_requested)
    trainer.train()
    assert looked == [1, 2, 3, 6, 9, 12]  # the pace is known at the second
