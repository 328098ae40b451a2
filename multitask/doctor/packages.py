"""Installed versions against what we and Axolotl ask for, from metadata: nothing is imported."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import multitask
from multitask.doctor.attention import kernel_check
from multitask.doctor.check import Check, State, ok, problem, warning
from multitask.doctor.subject import Subject
from multitask.runners.deepspeed import INSTALL

GROUP = "software"
_EXTRAS = ("train", "deepspeed")
# Each has a line of its own; all other requirements share one.
_NAMED = (
    "axolotl", "torch", "transformers", "accelerate", "peft", "datasets", "deepspeed",
    "flash-attn", "bitsandbytes",
)  # fmt: skip
# Extras of Axolotl's whose pins count where the package is installed or needed.
_AXOLOTL_EXTRAS = ("flash-attn", "deepspeed")
_SHOWN = 4


@dataclass(frozen=True)
class Pin:
    """A version that is asked for.

    Attributes:
        requirement: Name and versions.
        by: Who asks: ``multitask``, ``multitask[EXTRA]`` or ``axolotl``.
    """

    requirement: Requirement
    by: str

    @property
    def name(self) -> str:
        """The package, as indexes spell it."""
        return re.sub(r"[-_.]+", "-", self.requirement.name).lower()

    def accepts(self, found: str) -> bool:
        """Whether an installed version will do."""
        return self.requirement.specifier.contains(found, prereleases=True)


def package_checks(
    subject: Subject, *, gpus: int, trains_here: bool, hub_seconds: float
) -> list[Check]:
    """Python and each package: installed, and in a version that was asked for.

    Args:
        subject: What is to be trained; decides which packages are needed.
        gpus: GPUs of this machine.
        trains_here: Whether what training alone needs must be here.
        hub_seconds: How long the Hub may take to answer.
    """
    pins = wanted_versions()
    severity: State = "problem" if trains_here else "warning"
    checks = [_python()]
    if not any(pin.by.startswith("multitask") for pin in pins):
        unknown = "which versions are wanted is not known: multitask itself is not installed"
        checks.append(warning(GROUP, "pins", unknown, "pip install multitask, or run it from "
                              "its source tree"))  # fmt: skip
    for name in _NAMED:
        own = [pin for pin in pins if pin.name == name]
        if (
            name == "flash-attn"
            and installed(name) is None
            and not _why_unneeded(name, subject, gpus)
        ):
            checks.append(kernel_check(GROUP, name, severity, hub_seconds))
        else:
            checks.append(_named(name, own, subject, gpus, severity))
    checks.append(_others([pin for pin in pins if pin.name not in _NAMED], severity))
    return checks


def wanted_versions() -> list[Pin]:
    """What we ask for, extras of training included, and what the installed Axolotl asks for."""
    pins = _own_pins()
    try:
        texts = requires("axolotl") or []
    except PackageNotFoundError:
        return pins
    return pins + [Pin(requirement, "axolotl") for requirement in _applying(texts)]


def installed(name: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch is built for; None for a CPU build, or none.

    Read from torch's ``version.py``, since importing torch takes seconds.
    """
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        found = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", path.read_text("utf-8"), re.MULTILINE)
    except (PackageNotFoundError, OSError):
        return None
    return found.group(1) if found else None


def _own_pins() -> list[Pin]:
    """Our requirements without and for training.

    A source tree's own file comes first: what an editable install recorded may be older.
    """
    file = Path(multitask.__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        base = [Requirement(text) for text in project["dependencies"]]
        texts = project["optional-dependencies"]
        extras = {e: [Requirement(text) for text in texts[e]] for e in _EXTRAS}
    else:
        try:
            found = [Requirement(text) for text in requires("multitask") or []]
        except PackageNotFoundError:
            return []
        base = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
        more = [r for r in found if r not in base and r.marker]
        extras = {
            e: [r for r in more if r.marker and r.marker.evaluate({"extra": e})] for e in _EXTRAS
        }
    pins = [Pin(requirement, "multitask") for requirement in base]
    return pins + [Pin(r, f"multitask[{e}]") for e in _EXTRAS for r in extras[e]]


def _applying(texts: Sequence[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        extras = ("", *_AXOLOTL_EXTRAS)
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    shown = f"{found} at {sys.executable}"
    try:
        wanted = SpecifierSet(metadata("multitask")["Requires-Python"])
    except PackageNotFoundError:
        return ok(GROUP, "python", shown)
    if wanted.contains(found):
        return ok(GROUP, "python", shown)
    return problem(
        GROUP, "python", f"{shown}, and multitask needs {wanted}", "make an environment with it"
    )


def _named(name: str, pins: list[Pin], subject: Subject, gpus: int, severity: State) -> Check:
    found = installed(name)
    use = _why_unneeded(name, subject, gpus)
    if found is None:
        if use:
            return ok(GROUP, name, f"not installed; {use}")
        if any(pin.by == "multitask" for pin in pins):
            severity = "problem"
        return Check(GROUP, name, severity, _missing(pins), _install(name, pins))
    wrong = next((pin for pin in pins if not pin.accepts(found)), None)
    if wrong is not None:
        state: State = "warning" if use else severity
        wants = f"{wrong.by} needs {wrong.requirement.specifier}"
        return Check(GROUP, name, state, f"{found}, and {wants}", _pip(wrong))
    shown = found
    if name == "torch":
        cuda = torch_cuda()
        shown += f", built for CUDA {cuda}" if cuda else ", a build for the CPU alone"
    return ok(GROUP, name, shown)


def _why_unneeded(name: str, subject: Subject, gpus: int) -> str:
    """Why a package may be missing here; empty where it may not."""
    setup = subject.setup
    if name == "deepspeed":
        needed = setup is not None and setup.topology.sharding.deepspeed_stage is not None
        return "" if needed else "only `sharding: zero1` to `zero3` need it"
    if name == "flash-attn":
        if setup is not None:
            needed = setup.attention == "flash_attention_2" and gpus > 0
        else:
            needed = gpus > 0 and subject.cluster is None
        return "" if needed else "only training on GPUs needs it, to pack rows"
    return ""


def _missing(pins: list[Pin]) -> str:
    by = pins[0].by if pins else ""
    part = {
        "multitask[train]": "a part of the `train` extra",
        "multitask[deepspeed]": "`sharding: zero1` to `zero3` need it",
        "axolotl": "Axolotl needs it",
    }
    return f"not installed; {part[by]}" if by in part else "not installed"


def _install(name: str, pins: list[Pin]) -> str:
    if any(pin.by == "multitask" for pin in pins):
        return "pip install multitask"
    if name == "deepspeed":
        return INSTALL
    return "pip install 'multitask[train]' (see the README)"


def _pip(pin: Pin) -> str:
    return f"pip install '{pin.requirement.name}{pin.requirement.specifier}'"


def _others(pins: list[Pin], severity: State) -> Check:
    """All other requirements in one line."""
    wrong: dict[str, str] = {}
    askers: set[str] = set()
    for pin in pins:
        found = installed(pin.name)
        if found is not None and pin.accepts(found):
            continue
        # What an extra of Axolotl's brings, and training from a spec does not need.
        marker = pin.requirement.marker
        if found is None and pin.by == "axolotl" and marker and "extra" in str(marker):
            continue
        text = "missing" if found is None else found
        wrong.setdefault(f"{pin.name} {text}", f"{pin.by} needs {pin.requirement}")
        askers.add(pin.by)
    names = {pin.name for pin in pins}
    if not wrong:
        return ok(GROUP, "other packages", f"{len(names)} as asked for")
    listed = [f"{what} ({why.split(';')[0].strip()})" for what, why in wrong.items()]
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    state: State = "problem" if "multitask" in askers else severity
    train = any(pin != "multitask" for pin in askers)
    extra = "'multitask[train]' (see the README)" if train else "multitask"
    return Check(
        GROUP, "other packages", state, ", ".join(listed[:_SHOWN]) + more, f"pip install {extra}"
    )
