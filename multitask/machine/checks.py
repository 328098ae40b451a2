"""What all machines of a job must agree on before a training that costs money begins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from multitask.machine.protocol import BUNDLE_FILE, parse_bundle

PACKAGES = ("multitask", "axolotl", "torch", "transformers", "accelerate", "peft")

_BLOCK = 2**22
_SMI_SECONDS = 60


@dataclass(frozen=True)
class Facts:
    """What a node finds on itself.

    Attributes:
        seen: The numbers of the nodes' greetings that it sees on its volume.
        bundle: Hash of the bundle's list as it lies there; empty where it is missing.
        wrong: Files of the bundle that are missing or differ there.
        versions: Versions of the packages that a training depends on.
        gpus: GPUs that the driver shows.
        free_gb: Free space on the volume, GB.
    """

    seen: dict[str, str]
    bundle: str
    wrong: list[str]
    versions: dict[str, str]
    gpus: int
    free_gb: float

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """What the run needs.

    Attributes:
        bundle: Hash of its bundle.
        gpus: GPUs in each node; 0 for a run on CPUs.
        checkpoint_gb: Size of a checkpoint; None where it is not known.
    """

    bundle: str
    gpus: int
    checkpoint_gb: float | None


def gather(run_root: Path, greetings: Mapping[int, str]) -> Facts:
    """Look at this node.

    Raises:
        OSError: The volume cannot be read.
    """
    bundle, wrong = verify_bundle(run_root)
    return Facts(
        seen={str(node): nonce for node, nonce in greetings.items()},
        bundle=bundle,
        wrong=wrong,
        versions=installed_versions(),
        gpus=count_gpus(),
        free_gb=shutil.disk_usage(run_root).free / 1e9,
    )


def verify_bundle(run_root: Path) -> tuple[str, list[str]]:
    """Hash a run's files against its bundle's list.

    Returns:
        The hash of the list, empty where there is none, and the files that are missing or differ.
    """
    try:
        content = (run_root / BUNDLE_FILE).read_bytes()
        files = parse_bundle(content)
    except (FileNotFoundError, ValueError):
        return "", []
    wrong = [
        file["path"]
        for file in files
        if _size(run_root / file["path"]) != file["size"]
        or sha256_of(run_root / file["path"]) != file["sha256"]
    ]
    return hashlib.sha256(content).hexdigest(), wrong


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a training depends on; ``none`` where one is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def count_gpus() -> int:
    """GPUs that the driver shows; 0 without a driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
    )
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def find_problems(
    wanted: Wanted, nonces: Mapping[int, str], answers: Mapping[int, Mapping[str, Any] | None]
) -> list[str]:
    """Compare the nodes' facts with each other and with what the run needs.

    Args:
        wanted: What the run needs.
        nonces: The greetings that node 0 sees.
        answers: Each node's facts; None where it did not answer in time.

    Returns:
        What is wrong, each with the nodes and what to do; empty where training can begin.
    """
    absent = sorted(node for node, facts in answers.items() if facts is None)
    problems = []
    if absent:
        problems.append(
            f"node {_list(absent)} cannot be seen from node 0: it has not come up, or does not "
            "have the same volume; give all nodes one network volume, mounted at the same path"
        )
    present = {node: facts for node, facts in answers.items() if facts is not None}
    problems += _volume(nonces, present)
    for node, facts in sorted(present.items()):
        problems += [f"node {node} {problem}" for problem in _alone(wanted, facts)]
    return problems + _versions(present)


def is_settled(nonces: Mapping[int, str], answers: Mapping[int, Mapping[str, Any] | None]) -> bool:
    """Whether every node has answered and has seen every node as node 0 sees it.

    Where not, a node has come up, or was started again, after another one's answer.
    """
    return all(
        facts is not None and all(facts["seen"].get(str(n)) == nonces.get(n) for n in answers)
        for facts in answers.values()
    )


def _volume(nonces: Mapping[int, str], present: Mapping[int, Mapping[str, Any]]) -> list[str]:
    blind = [
        node
        for node, facts in sorted(present.items())
        if any(facts["seen"].get(str(other)) != nonces.get(other) for other in present)
    ]
    if not blind:
        return []
    where = f"node {_list(blind)} does not see what the other nodes write"
    return [f"{where}: the nodes do not share one volume; give all of them the same network volume"]


def _alone(wanted: Wanted, facts: Mapping[str, Any]) -> list[str]:
    problems = []
    if facts["bundle"] != wanted.bundle:
        problems.append("has another bundle than the job was created for; upload the run again")
    if facts["wrong"]:
        named = ", ".join(facts["wrong"][:3])
        problems.append(
            f"has {len(facts['wrong'])} files that are missing or differ ({named}); upload the run "
            "again under another run id"
        )
    if facts["gpus"] != wanted.gpus:
        problems.append(
            f"has {facts['gpus']} GPUs and the run was built for {wanted.gpus} in each node; build "
            "it for this cluster, or rent the one it was built for"
        )
    need = None if wanted.checkpoint_gb is None else 2 * wanted.checkpoint_gb
    if need is not None and facts["free_gb"] < need:
        problems.append(
            f"has {facts['free_gb']:.1f} GB free on its volume, and two checkpoints take "
            f"{need:.1f} GB; make room, or take a larger volume"
        )
    return problems


def _versions(present: Mapping[int, Mapping[str, Any]]) -> list[str]:
    problems = []
    for name in PACKAGES:
        found: dict[str, list[int]] = {}
        for node, facts in sorted(present.items()):
            found.setdefault(facts["versions"].get(name, "none"), []).append(node)
        if len(found) > 1:
            each = "; ".join(f"{v} on node {_list(nodes)}" for v, nodes in found.items())
            problems.append(f"{name} differs: {each}; start all nodes from the same image")
    return problems


def _list(nodes: list[int]) -> str:
    return ", ".join(map(str, nodes))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() and not path.is_symlink() else -1
