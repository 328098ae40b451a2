"""Where a training tells its steps: seldom on the shared volume, each on its own machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from multitask.callbacks.progress import ProgressCallback
from multitask.training.progress import VARIABLE, read_progress


def test_steps_reach_the_shared_file_seldom_and_the_supervisor_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    callback = ProgressCallback(tmp_path / "events.jsonl", seconds=1e6)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=10)
    control = SimpleNamespace(should_save=False, should_evaluate=False)
    told = []
    for step in range(1, 11):
        callback.on_step_begin(None, state, control)
        state.global_step = step
        control.should_save = step == 4
        callback.on_step_end(None, state, control)
        told.append(read_progress(tmp_path / "progress"))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 10]  # the first and the last
    assert [(one.step, one.phase) for one in told if one] == [
        (step, "pausing" if step == 4 else "training") for step in range(1, 11)
    ]
