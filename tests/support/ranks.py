"""A few ranks of a process group over gloo, forked from a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """Call a function in every rank, as on a machine without GPU; gives what they return.

    Args:
        count: Ranks.
        function: Called with ``arguments``; ``torch.distributed`` is set up.
        arguments: For the function.
        folder: An empty one for the ranks' answers.

    Raises:
        AssertionError: A rank failed; its traceback is the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_rank, args=(rank, count, port, folder, function, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(900)
        process.kill()
    answers = [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(count)]
    for error, _ in answers:
        assert error is None, error
    return [answer for _, answer in answers]


def _rank(
    rank: int, count: int, port: int, folder: Path, function: Callable[..., Any], arguments: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    answer: tuple[str | None, Any] = ("the rank said nothing", None)
    try:
        import torch
        import torch.distributed as dist
        from accelerate.state import AcceleratorState, GradientState

        # A rank is a fork: an earlier test's accelerator may have left its state here.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=count)
        answer = (None, function(*arguments))
    except BaseException:  # noqa: BLE001 (shown by the caller)
        answer = (traceback.format_exc(), None)
    finally:
        (folder / str(rank)).write_bytes(pickle.dumps(answer))
        os._exit(0)
