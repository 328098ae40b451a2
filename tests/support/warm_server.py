"""A process that has imported what commands and trainings need; ``tests/warm.py`` asks it.

A fork runs ``multitask ARGUMENTS``, or what ``accelerate launch ARGUMENTS`` would start for one
process, with accelerate's own words for it; else the ranks of a rehearsal's launch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from multitask.rehearsal import agent
from multitask.rehearsal.forkserver import serve


def prepare() -> None:
    agent._environment()
    import torch
    import wandb  # noqa: F401

    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401

    import multitask.cli
    import multitask.evaluation
    import multitask.plugin
    import multitask.reports  # noqa: F401

    torch.set_num_threads(1)
    agent._compile()


def launch(arguments: Sequence[str]) -> int:
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    if arguments[0] == "multitask":
        return _multitask(arguments[1:])
    if arguments[0] == "accelerate":
        return _accelerate(arguments[1:])
    return _ranks(arguments)


def _multitask(arguments: Sequence[str]) -> int:
    from multitask.cli import main

    sys.argv = ["multitask", *arguments]
    main()
    return 0


def _accelerate(arguments: Sequence[str]) -> int:
    import fire
    import wandb
    from accelerate.commands import launch
    from axolotl.cli.train import do_cli

    parsed = launch.launch_command_parser().parse_args(arguments)
    parsed, _, _ = launch._validate_launch_command(parsed)
    command, environment = launch.prepare_simple_launcher_cmd_env(parsed)
    os.environ.update(environment)
    assert command[1:3] == ["-m", "axolotl.cli.train"], command
    sys.argv = command[2:]
    try:
        fire.Fire(do_cli)
    finally:
        wandb.teardown()  # a fork ends without what a process does at its end: writing the rest
    return 0


def _ranks(arguments: Sequence[str]) -> int:
    from multitask.rehearsal import shims

    shims.install()
    return agent.launch(arguments)


if __name__ == "__main__":
    serve(sys.argv[1], prepare, launch)
