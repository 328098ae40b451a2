"""The shards that a sharded checkpoint's ``.metadata`` promises; reading it needs torch."""

from __future__ import annotations

from pathlib import Path


def shard_problems(folder: Path) -> list[str]:
    """Compare every ``.metadata`` below a checkpoint with the ``.distcp`` files beside it.

    Args:
        folder: ``checkpoint-N``.

    Returns:
        One sentence a problem; empty for a checkpoint without shards.
    """
    return [
        problem for path in sorted(folder.glob("*/.metadata")) for problem in _problems(path.parent)
    ]


def _problems(part: Path) -> list[str]:
    from torch.distributed.checkpoint import FileSystemReader

    try:
        metadata = FileSystemReader(part).read_metadata()
    except Exception as error:  # noqa: BLE001  # a damaged pickle raises whatever it likes
        return [f"{part.name}/.metadata cannot be read ({type(error).__name__})"]
    ends: dict[str, int] = {}
    for place in (metadata.storage_data or {}).values():
        end = place.offset + place.length
        ends[place.relative_path] = max(ends.get(place.relative_path, 0), end)
    problems = []
    for name, end in sorted(ends.items()):
        path = part / name
        if not path.is_file():
            problems.append(f"{part.name}/{name} is missing")
        elif path.stat().st_size < end:
            problems.append(f"{part.name}/{name} is cut short")
    return problems
