"""A real run that was evaluated in full, for tests of what is said about it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.run import Run


@pytest.fixture(scope="session")
def evaluated(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The trained run with an evaluation of itself and its base; do not change it."""
    root = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained.root, root)
    settings = replace(Settings(), generate=3, permutations=True)
    evaluate(Run(root), limit=12, base=True, settings=settings)
    return Run(root)
