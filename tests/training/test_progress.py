"""The watchdog: what it takes for a hang, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.training.progress import (
    VARIABLE,
    Phase,
    Progress,
    ProgressFile,
    Watchdog,
    own_progress_file,
    read_progress,
)
from multitask.training.supervisor import Options


class Scene:
    """A training and its watchdog, with a clock of their own that is looked at every second."""

    def __init__(self, path: Path, options: Options | None = None) -> None:
        self.now = 0.0
        self._file = ProgressFile(path)
        self._dog = Watchdog(path, options or Options(), lambda: self.now)

    def wait(self, seconds: float) -> float | None:
        """Let time pass; the second in it at which the watchdog ends the training."""
        for second in range(1, round(seconds) + 1):
            self.now += 1
            if self._dog.look() is not None:
                return second
        return None

    def step(self, step: int, seconds: float, phase: Phase = "training") -> None:
        assert self.wait(seconds) is None
        self._file.tell(step, phase)
        assert self._dog.look() is None

    def steps(self, count: int, seconds: float) -> None:
        self.step(0, 1, "starting")
        for step in range(1, count + 1):
            self.step(step, seconds)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "progress")


def test_a_hang_is_noticed_after_three_minutes(scene: Scene) -> None:
    scene.steps(5, 2)
    assert scene.wait(1000) == 181


def test_slow_steps_are_given_ten_times_their_median(scene: Scene) -> None:
    scene.steps(9, 60)
    assert scene.wait(1000) == 601


def test_a_slow_first_step_does_not_make_the_watchdog_slow(scene: Scene) -> None:
    scene.step(0, 1, "starting")
    scene.step(1, 1000)
    for step in (2, 3):
        scene.step(step, 2)
    assert scene.wait(1000) == 181


@pytest.mark.parametrize("phase", ["starting", "ended"])
def test_nothing_is_judged_before_the_first_step_and_after_the_last(
    scene: Scene, phase: Phase
) -> None:
    scene.step(0, 1, phase)
    assert scene.wait(20_000) is None


def test_a_training_that_says_nothing_is_left_alone(scene: Scene) -> None:
    assert scene.wait(20_000) is None


def test_saves_and_evaluations_have_a_quarter_of_an_hour(scene: Scene) -> None:
    scene.steps(5, 2)
    scene.step(6, 2, "pausing")
    assert scene.wait(2000) == 901


def test_and_three_times_as_long_as_they_took_before(scene: Scene) -> None:
    scene.steps(5, 2)
    scene.step(6, 2, "pausing")
    scene.step(6, 800)
    scene.step(7, 2, "pausing")
    assert scene.wait(4000) == 2401


def test_a_supervisor_that_was_suspended_does_not_blame_the_training(scene: Scene) -> None:
    scene.steps(5, 2)
    scene.now += 10_000
    scene.step(6, 2)
    assert scene.wait(1000) == 181


def test_progress_is_read_as_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    assert read_progress(path) is None
    file = ProgressFile(path)
    file.tell(1_000_000, "training")
    file.tell(7, "pausing")
    assert read_progress(path) == Progress(7, "pausing", 2)
    path.write_text("[7, ")
    assert read_progress(path) is None


def test_only_a_machines_first_process_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert own_progress_file() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_progress_file() is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert own_progress_file() is not None
    monkeypatch.setenv(VARIABLE, "/nowhere/progress")
    assert own_progress_file() is None
