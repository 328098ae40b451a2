"""What the libraries of a training are told before they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multitask.run import Run
from multitask.training.command import launch_environment

# A GPU without nvcc as DeepSpeed sees it (deepspeed/ops/op_builder/fp_quantizer.py, line 35), then
# what accelerate does in every training (accelerate/utils/other.py, line 257).
_TRAINING = """
import torch, torch.utils.cpp_extension
torch.utils.cpp_extension.CUDA_HOME = None
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_properties = lambda *_: type("Properties", (), {"major": 8, "minor": 0})()
from accelerate.utils import extract_model_from_parallel
extract_model_from_parallel(torch.nn.Linear(1, 1))
"""


def _start(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in environment.items() if k not in ("CUDA_HOME", "CUDA_PATH")}
    environment["PATH"] = "/nowhere"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def _needs_deepspeed() -> None:
    pytest.importorskip("axolotl")
    pytest.importorskip("deepspeed", exc_type=ImportError)


def test_without_nvcc_deepspeed_alone_would_end_a_training() -> None:
    environment = dict(os.environ)
    environment.pop("DS_IGNORE_CUDA_DETECTION", None)
    assert "MissingCUDAException" in _start(_TRAINING, environment).stderr


def test_a_training_needs_no_nvcc(tmp_path: Path) -> None:
    done = _start(_TRAINING, launch_environment(Run(tmp_path)))
    assert done.returncode == 0, done.stderr


def test_an_evaluation_needs_no_nvcc() -> None:
    code = "from multitask.quiet import quiet_libraries\nquiet_libraries()\n" + _TRAINING
    done = _start(code, dict(os.environ))
    assert done.returncode == 0, done.stderr
