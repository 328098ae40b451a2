"""What the processes of a training tell each other."""

from __future__ import annotations

from typing import Any


def rank() -> int:
    """This process's number; 0 where it is alone."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """Give every process the values of all, by rank; it also waits for all."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def agree(flags: int, device: Any) -> int:
    """Give every process the first one's small number."""
    if world_size() == 1:
        return flags
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.broadcast(tensor, src=0)
    return int(tensor.item())
