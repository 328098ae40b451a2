"""A multi-task run and runs of its tasks alone, each trained for a moment."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from multitask.evaluation.requests import Settings
from multitask.run import Run
from multitask.spec import Spec

QUICK = Settings(baselines=False, generate=0, calibration="none", distribution=False)
TASKS = ("text_claims", "banking77")


@dataclass(frozen=True)
class Runs:
    """The runs of a comparison."""

    together: Run
    alone: dict[str, Run]


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Do not change them."""
    pytest.importorskip("torch")
    from tests.trained import trained_run

    folder = tmp_path_factory.mktemp("interference")
    spec = Spec(model="base", tasks=TASKS, cluster="cpu", method="full", sample=True)
    together = trained_run(spec, folder / "together", steps=60)
    alone = {
        task: trained_run(spec.model_copy(update={"only": (task,)}), folder / task, steps=40)
        for task in TASKS
    }
    return Runs(together, alone)


@pytest.fixture
def runs(trained_runs: Runs, tmp_path: Path) -> Runs:
    """Copies, to be evaluated or broken."""
    shutil.copytree(trained_runs.together.root.parent, tmp_path / "runs")
    return Runs(
        Run(tmp_path / "runs/together"), {task: Run(tmp_path / "runs" / task) for task in TASKS}
    )
