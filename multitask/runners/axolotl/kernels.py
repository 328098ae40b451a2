"""The flash-attention kernel that Axolotl trains with: on this machine, or from the Hub.

Neither pip nor Axolotl's images bring the package flash-attn. Without it, Axolotl
(``monkeypatch/attention/fa2_hub_kernel.py``) and transformers (``integrations/hub_kernels.py``)
load a kernel from the Hub, whose branches they list at every start: a node without network fails
even with the kernel in its cache, and ``HF_HUB_OFFLINE`` does not help, since the cache then holds
commits and no branches (``kernels/_versions.py``). A folder that ``LOCAL_KERNELS`` names is taken
without asking anyone (``kernels/utils.py``, ``get_kernel``).

``python -m multitask.runners.axolotl.kernels`` prints where the kernel is on this machine; with
``fetch [FOLDER]`` it downloads it, into the Hub's cache or a folder that ``LOCAL_KERNELS`` can
name.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

REPOSITORY = "kernels-community/flash-attn2"
VERSION = 2
"""The major version that Axolotl 0.19 pins: the backward pass of 3 fails for grouped queries."""

LOCAL = "LOCAL_KERNELS"


def local_kernel(environment: Mapping[str, str]) -> Path | None:
    """Where the kernel is on this machine, built for its torch; None where it is not.

    Imports torch.

    Args:
        environment: Where ``LOCAL_KERNELS`` and ``KERNELS_CACHE`` are read from.
    """
    return next((folder for folder in _folders(environment) if _variant(folder)), None)


def use_local_kernel(environment: MutableMapping[str, str]) -> None:
    """Let this process's Axolotl take the kernel from this machine, where it is there."""
    if _named(environment) is None and (folder := local_kernel(environment)) is not None:
        others = environment.get(LOCAL)
        environment[LOCAL] = (f"{others}:" if others else "") + f"{REPOSITORY}={folder}"


def fetch_kernel(folder: Path | None = None) -> Path:
    """Download the kernel for this machine's torch; no GPU is needed.

    Args:
        folder: Where to put it; None: the Hub's cache.

    Returns:
        What ``LOCAL_KERNELS`` can name.
    """
    from kernels import install_kernel
    from kernels._versions import select_revision_or_version

    revision = select_revision_or_version(REPOSITORY, revision=None, version=VERSION)
    variant: Path = install_kernel(REPOSITORY, revision=revision)
    snapshot = variant.parents[1]
    if folder is None:
        return snapshot
    # The files behind the cache's links, and the commit, which names what was trained with.
    shutil.copytree(variant, folder / "build" / variant.name)
    (folder / "revision").write_text(f"{revision}\n", encoding="ascii")
    return folder


def _named(environment: Mapping[str, str]) -> Path | None:
    """The folder that ``LOCAL_KERNELS`` names."""
    for entry in environment.get(LOCAL, "").split(":"):
        repository, _, folder = entry.partition("=")
        if repository == REPOSITORY:
            return Path(folder)
    return None


def _folders(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where the kernel may be: what is named, else the cache's snapshots, newest first."""
    from huggingface_hub import constants

    named = _named(environment)
    if named is not None:
        yield named
        return
    cache = Path(environment.get("KERNELS_CACHE") or constants.HF_HUB_CACHE).absolute()
    repository = cache / f"kernels--{REPOSITORY.replace('/', '--')}"
    # A download that was cut off leaves such a file, and a snapshot with holes.
    if ":" in str(cache) or any(repository.glob("blobs/*.incomplete")):
        return
    yield from sorted(
        repository.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True
    )


def _variant(folder: Path) -> str | None:
    """The build in a folder that suits this machine's torch; None where there is none."""
    from kernels import Metadata
    from kernels.variants import get_variants_local, resolve_variant

    variant, _ = resolve_variant(get_variants_local(folder / "build"))
    if variant is None:
        return None
    name: str = variant.variant_str
    try:
        metadata = Metadata.read_from_file(folder / "build" / name / "metadata.json")
    except (OSError, ValueError):
        return None
    return name if metadata.version == VERSION else None


def main() -> None:
    """Print where the kernel is, or fetch it first."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["fetch"]:
        found: Path | None = fetch_kernel(*map(Path, arguments[1:2]))
    else:
        found = local_kernel(os.environ)
    sys.stdout.write(f"{found or ''}\n")


if __name__ == "__main__":
    main()
