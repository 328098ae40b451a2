"""One launch on one node of a rehearsal: torch's elastic agent with its ranks, on the CPU.

It does what torchrun does, with a static rendezvous, but its ranks are forks of a process that has
imported Axolotl: imports are most of the start-up of many ranks on few cores.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import yaml

from multitask.quiet import set_library_variables


def prepare() -> None:
    """Import and compile what every rank needs, and install the shims, before there are ranks."""
    _environment()
    import axolotl.cli.train
    import axolotl.core.builders
    import axolotl.loaders  # noqa: F401
    import transformers.trainer  # noqa: F401

    import multitask.plugin  # noqa: F401
    from multitask.rehearsal import shims

    shims.install()
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401  (accelerate imports it in every rank that has it)
    _compile()
    # Axolotl collects garbage ten times in every rank, over all that the imports have left: of
    # what is frozen, nothing is looked at, and its pages stay shared between the forks.
    gc.collect()
    gc.freeze()


def _environment() -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"
    # Without a number: torch does not load what is mapped to a device called cpu:0.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    set_library_variables(os.environ)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _compile() -> None:
    """Compile Axolotl's packing, which numba would compile in every rank, several seconds each."""
    import numpy as np
    from axolotl.utils.samplers.multipack import pack_parallel

    pack_parallel(np.array([3, 2], dtype=np.int32), 4, 2, 2, num_processes=1)


def launch(arguments: Sequence[str]) -> int:
    """Start this node's ranks and wait for them.

    Args:
        arguments: Of the command line, as torchrun's.

    Returns:
        The exit code: 1 when a rank failed.
    """
    parser = argparse.ArgumentParser(prog="multitask.rehearsal.agent", description=__doc__)
    parser.add_argument("--nnodes", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    parser.add_argument("--master-port", type=int, required=True)
    parser.add_argument("--log-dir", required=True, help="a folder for each rank's output")
    parser.add_argument("--resume", help="the checkpoint to go on from")
    parser.add_argument("config", help="axolotl.yaml")
    parsed = parser.parse_args(arguments)
    _environment()
    if _uses_deepspeed(parsed.config):
        # Told to use CPUs, accelerate leaves DeepSpeed out.
        del os.environ["ACCELERATE_USE_CPU"]
    return _launch(parsed)


def _uses_deepspeed(config: str) -> bool:
    with open(config, encoding="utf-8") as file:  # noqa: PTH123
        return bool((yaml.safe_load(file) or {}).get("deepspeed"))


def _launch(arguments: argparse.Namespace) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.makedirs(arguments.log_dir, exist_ok=True)  # noqa: PTH103
    config = LaunchConfig(
        min_nodes=arguments.nnodes,
        max_nodes=arguments.nnodes,
        nproc_per_node=arguments.nproc_per_node,
        run_id="rehearsal",
        rdzv_backend="static",
        rdzv_endpoint=f"{arguments.master_addr}:{arguments.master_port}",
        rdzv_configs={"rank": arguments.node_rank, "timeout": 900},
        max_restarts=0,
        monitor_interval=0.2,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(arguments.log_dir, redirects=Std.ALL, tee=Std.NONE),
    )
    try:
        elastic_launch(config, entrypoint=_rank)(arguments.config, arguments.resume)
    except ChildFailedError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _rank(config: str, resume: str | None) -> None:
    """One rank: what ``python -m axolotl.cli.train`` does."""
    import torch
    from axolotl.cli.train import do_cli

    from multitask.rehearsal import faults, probe, shims

    shims.set_timeout()
    torch.set_num_threads(1)
    faults.install()
    probe.install()
    options: dict[str, Any] = {} if resume is None else {"resume_from_checkpoint": resume}
    try:
        do_cli(config, **options)
    except Exception:
        traceback.print_exc()  # into this rank's own log, where the supervisor looks for it
        raise
