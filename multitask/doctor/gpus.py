"""The GPUs of this machine and their driver, as ``nvidia-smi`` tells them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from multitask.checks import Check, Severity, judged, ok, problem, warning
from multitask.doctor.bounded import Finished, NoAnswerError, run_program
from multitask.doctor.subject import Subject

GROUP = "GPUs"
# With the driver's persistence mode off, it wakes every GPU first.
_SECONDS = 20.0
_FIELDS = (
    "name", "memory.total", "memory.used", "driver_version", "compute_cap", "mig.mode.current",
    "ecc.errors.uncorrected.volatile.total",
)  # fmt: skip
_MIB = 1 << 20
_GB = 10**9
# A context and a few kernels; more is somebody's training.
_IDLE_GB = 1.5
# Of the memory that a cluster's file names: drivers keep a little.
_ENOUGH = 0.97
_BY_TORCH = (
    "import torch\n"
    "for i in range(torch.cuda.device_count()):\n"
    "    p = torch.cuda.get_device_properties(i)\n"
    "    print(f'{p.name}|{p.total_memory}|{p.major}.{p.minor}')\n"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As its driver names it.
        memory_gb: Its memory in GB.
        used_gb: What of it is taken, in GB.
        capability: Its compute capability, ``sm_80``; empty where the driver does not say.
        partitioned: Whether MIG divides it.
        memory_errors: Uncorrected memory errors since the driver was loaded.
    """

    name: str
    memory_gb: float
    used_gb: float = 0.0
    capability: str = ""
    partitioned: bool = False
    memory_errors: int = 0


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a machine.

    Attributes:
        all: Each of them.
        driver: The driver's version; empty where there is none.
        cuda: The newest CUDA that the driver runs; empty where it is not known.
        failure: What the driver said in place of an answer.
    """

    all: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    failure: str = ""


def find_gpus() -> Gpus:
    """Ask the driver, or torch where its program is missing but a GPU's device is there."""
    if shutil.which("nvidia-smi") is None:
        return _by_torch() if Path("/dev/nvidiactl").exists() else Gpus()
    query = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        asked, told = run_program(query, _SECONDS), run_program(["nvidia-smi"], _SECONDS)
    except NoAnswerError as error:
        return Gpus(failure=f"nvidia-smi gives {error}")
    except OSError as error:
        return Gpus(failure=f"nvidia-smi cannot be started ({error.strerror})")
    if asked.code:
        return Gpus(failure=f"nvidia-smi: {asked.last_words}")
    return _parse(asked, told)


def _parse(asked: Finished, told: Finished) -> Gpus:
    rows = [[cell.strip() for cell in line.split(",")] for line in asked.out.splitlines() if line]
    rows = [row for row in rows if len(row) == len(_FIELDS)]
    found = tuple(
        Gpu(
            name=row[0],
            memory_gb=_number(row[1]) * _MIB / _GB,
            used_gb=_number(row[2]) * _MIB / _GB,
            capability=f"sm_{row[4].replace('.', '')}" if row[4][:1].isdigit() else "",
            partitioned=row[5] == "Enabled",
            memory_errors=round(_number(row[6])),
        )
        for row in rows
    )
    # Newer drivers call it the CUDA UMD version.
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*([\d.]+)", told.out)
    return Gpus(found, rows[0][3] if rows else "", cuda.group(1) if cuda else "")


def _by_torch() -> Gpus:
    try:
        done = run_program([sys.executable, "-c", _BY_TORCH], _SECONDS)
    except NoAnswerError as error:
        return Gpus(failure=f"nvidia-smi is not on the PATH, and torch gives {error}")
    if done.code:
        return Gpus(failure=f"nvidia-smi is not on the PATH, and torch: {done.last_words}")
    rows = [line.split("|") for line in done.out.splitlines() if line.count("|") == 2]
    return Gpus(
        tuple(Gpu(r[0], int(r[1]) / _GB, capability=f"sm_{r[2].replace('.', '')}") for r in rows)
    )


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def visible_count(found: Gpus, environment: Mapping[str, str]) -> int:
    """How many of the GPUs a process may use: ``CUDA_VISIBLE_DEVICES`` can hide some."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return len(found.all)
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    # CUDA stops at the first that is none.
    bad = [i for i, name in enumerate(names) if name.lstrip("-").isdigit()
           and not 0 <= int(name) < len(found.all)]  # fmt: skip
    return min(len(names[: bad[0]] if bad else names), len(found.all))


def gpu_checks(
    found: Gpus, subject: Subject, environment: Mapping[str, str], torch_cuda: str | None
) -> list[Check]:
    """The GPUs, their driver, and whether they are what the run was planned for.

    Args:
        found: What the machine has.
        subject: What is to be trained.
        environment: This process's variables.
        torch_cuda: What the installed torch is built for; None: for the CPU, or there is none.
    """
    if found.failure:
        fix = "the GPU or its driver is not usable: reload the driver, or take another machine"
        wants_none = subject.cluster is not None and subject.cluster.on_cpu
        return [judged(GROUP, "GPUs", "warning" if wants_none else "problem", found.failure, fix)]
    visible = visible_count(found, environment)
    checks = [_list(found, visible, environment), *_fit(found, visible, subject, environment)]
    if found.all:
        checks += [_driver(found, torch_cuda, subject), *_health(found)]
    return checks


def _list(found: Gpus, visible: int, environment: Mapping[str, str]) -> Check:
    if not found.all:
        return ok(GROUP, "GPUs", "none on this machine")
    kinds: dict[str, int] = {}
    for gpu in found.all:
        words = f"{gpu.name}, {gpu.memory_gb:.0f} GB" + f", {gpu.capability}" * bool(gpu.capability)
        kinds[words] = kinds.get(words, 0) + 1
    text = "; ".join(f"{count} x {words}" for words, count in kinds.items())
    if visible < len(found.all):
        chosen = environment.get("CUDA_VISIBLE_DEVICES")
        return warning(
            GROUP,
            "GPUs",
            f"{text}; CUDA_VISIBLE_DEVICES={chosen!r} leaves {visible}",
            "unset CUDA_VISIBLE_DEVICES, unless it is meant",
        )
    return ok(GROUP, "GPUs", text)


def _fit(
    found: Gpus, visible: int, subject: Subject, environment: Mapping[str, str]
) -> list[Check]:
    cluster = subject.cluster
    if cluster is None:
        return []
    name, each = "for this run", "" if cluster.nodes == 1 else " on each node"
    if cluster.on_cpu:
        return [ok(GROUP, name, "it trains on the CPU")]
    wanted = f"{cluster.gpus_per_node} x {cluster.gpu}{each}"
    if not found.all:
        here = subject.trains_here(0, environment)
        state: Severity = "problem" if here else "warning"
        fix = f"train it where there are {wanted}; planning and building need none"
        return [judged(GROUP, name, state, f"it needs {wanted}, and there is none here", fix)]
    if visible < cluster.gpus_per_node:
        fix = f"train it where there are {wanted}, or plan it anew for the `cluster` that is here"
        return [problem(GROUP, name, f"it needs {wanted}, and {visible} can be used", fix)]
    least = min(gpu.memory_gb for gpu in found.all)
    if cluster.memory_gb is not None and least < _ENOUGH * cluster.memory_gb:
        text = f"it is planned for {cluster.memory_gb:g} GB a GPU, and these have {least:.0f} GB"
        return [problem(GROUP, name, text, "choose a `cluster` with GPUs like these")]
    old = [g.capability for g in found.all if _older(g.capability, cluster.compute_capability)]
    if old:
        text = f"it is planned for {cluster.compute_capability}, and these are {old[0]}"
        return [problem(GROUP, name, text, "choose a `cluster` with GPUs like these")]
    if visible > cluster.gpus_per_node:
        text = f"it uses {cluster.gpus_per_node} of {visible}"
        return [warning(GROUP, name, text, "choose a `cluster` with all of them: you pay for them")]
    return [ok(GROUP, name, f"{wanted}, as planned")]


def _older(found: str, wanted: str | None) -> bool:
    numbers = [text.removeprefix("sm_") for text in (found, wanted or "")]
    return all(n.isdigit() for n in numbers) and int(numbers[0]) < int(numbers[1])


def _driver(found: Gpus, torch_cuda: str | None, subject: Subject) -> Check:
    text = f"{found.driver or 'unknown'}, for CUDA {found.cuda or '?'} and older"
    if torch_cuda is None:
        on_cpu = subject.cluster is not None and subject.cluster.on_cpu
        return judged(
            GROUP,
            "driver",
            "ok" if on_cpu else "problem",
            f"{text}; torch is missing or built for the CPU alone",
            ""
            if on_cpu
            else f"install the torch that is built for CUDA {found.cuda} or older "
            "(pytorch.org lists the commands)",
        )
    # Within a major version, older drivers run newer builds (CUDA's minor version compatibility).
    if found.cuda and int(torch_cuda.split(".")[0]) > int(found.cuda.split(".")[0]):
        return problem(
            GROUP,
            "driver",
            f"{text}; torch is built for CUDA {torch_cuda}, which it cannot run",
            "take a machine with a newer driver, or install a torch for an older CUDA",
        )
    return ok(GROUP, "driver", f"{text}; torch is built for CUDA {torch_cuda}")


def _health(found: Gpus) -> list[Check]:
    checks = []
    for i, gpu in enumerate(found.all):
        name = f"GPU {i}"
        if gpu.memory_errors:
            text = f"{gpu.memory_errors} uncorrected memory errors"
            checks.append(problem(GROUP, name, text, "reset the GPU, or take another machine"))
        if gpu.partitioned:
            text = "divided into instances (MIG), and a process sees one of them"
            checks.append(warning(GROUP, name, text, "turn MIG off, or plan for one instance"))
        if gpu.used_gb > _IDLE_GB:
            text = f"{gpu.used_gb:.0f} of {gpu.memory_gb:.0f} GB are in use"
            checks.append(warning(GROUP, name, text, "see whose with `nvidia-smi`, and end it"))
    return checks
