"""Silence for what libraries print at import, so that our own messages can be seen."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Hide notices that a user can do nothing about; call before importing torch."""
    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("torchao", "torch.utils._pytree", "transformers", "deepspeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
