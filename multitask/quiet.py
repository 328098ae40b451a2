"""How the libraries of a training behave when they are imported."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import MutableMapping

_VARIABLES = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    # Where DeepSpeed is installed, accelerate's unwrap_model imports it in every training, and on a
    # GPU machine without nvcc that import fails (deepspeed/ops/op_builder/builder.py, line 51).
    "DS_IGNORE_CUDA_DETECTION": "1",
}


def set_library_variables(environment: MutableMapping[str, str]) -> None:
    """Set what every process that trains or scores wants; what a user has set stays."""
    for name, value in _VARIABLES.items():
        environment.setdefault(name, value)


def quiet_libraries() -> None:
    """Hide notices that a user can do nothing about; call before importing torch."""
    set_library_variables(os.environ)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("torchao", "torch.utils._pytree", "transformers", "deepspeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
