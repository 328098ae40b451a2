"""Installed versions against what we and Axolotl ask for, from metadata: nothing is imported."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import multitask
from multitask.checks import Check, Severity, judged, ok, problem, warning
from multitask.doctor.bounded import NoAnswerError, Pending, run_program
from multitask.doctor.subject import Subject
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.quiet import set_library_variables
from multitask.runners.axolotl.kernels import REPOSITORY, VERSION
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
    severity: Severity = "problem" if trains_here else "warning"
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


def _named(name: str, pins: list[Pin], subject: Subject, gpus: int, severity: Severity) -> Check:
    found = installed(name)
    use = _why_unneeded(name, subject, gpus)
    if found is None:
        if use:
            return ok(GROUP, name, f"not installed; {use}")
        if any(pin.by == "multitask" for pin in pins):
            severity = "problem"
        return judged(GROUP, name, severity, _missing(pins), _install(name, pins))
    wrong = next((pin for pin in pins if not pin.accepts(found)), None)
    if wrong is not None:
        state: Severity = "warning" if use else severity
        wants = f"{wrong.by} needs {wrong.requirement.specifier}"
        return judged(GROUP, name, state, f"{found}, and {wants}", _pip(wrong))
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


def _others(pins: list[Pin], severity: Severity) -> Check:
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
    state: Severity = "problem" if "multitask" in askers else severity
    train = any(pin != "multitask" for pin in askers)
    extra = "'multitask[train]' (see the README)" if train else "multitask"
    return judged(
        GROUP, "other packages", state, ", ".join(listed[:_SHOWN]) + more, f"pip install {extra}"
    )


_PLUGIN = "multitask.plugin.MultitaskPlugin"
# A tenth of a second where all is well.
_FIND_SECONDS = 20.0
# A cold disk on a fresh node takes minutes to give torch and what it needs.
_IMPORT_SECONDS = 300.0

# Packages with compiled parts that are built for one torch: (package, what is imported).
_COMPILED = (("flash-attn", "flash_attn_2_cuda"), ("bitsandbytes", "bitsandbytes"),
             ("deepspeed", "deepspeed"))  # fmt: skip

_FIND = """
import json
from importlib.util import find_spec
found = {}
for name in ("multitask.plugin", "axolotl"):
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    found[name] = spec.origin if spec else None
print(json.dumps(found))
"""
_LOAD = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, attribute = name.rpartition(".")
    getattr(importlib.import_module(module), attribute)
"""
_TORCH = """
import torch
cuda = torch.cuda.is_available()
words = [torch.__version__]
if cuda:
    for i in range(torch.cuda.device_count()):
        x = torch.ones(256, 256, device=f"cuda:{i}", dtype=torch.bfloat16)
        assert float((x @ x)[0, 0]) == 256, f"GPU {i} computes wrong results"
    words.append(f"{torch.cuda.device_count()} GPUs, and they compute")
print(", ".join(words))
"""


def find_plugin(subject: Subject) -> Pending[Check]:
    """Begin to look whether a training's process would find our plugin; nothing is imported."""
    return Pending(lambda: _find(subject), _FIND_SECONDS + 1)


def plugin_check(pending: Pending[Check]) -> Check:
    """What was found."""
    try:
        return pending.get()
    except NoAnswerError as error:
        return warning(GROUP, "plugin", f"a fresh Python gives {error}", "see what slows it down")


def _find(subject: Subject) -> Check:
    name, folder = "plugin", _folder(subject)
    done = run_program(
        [sys.executable, "-c", _FIND], _FIND_SECONDS, folder=folder, environment=_environment()
    )
    if done.code:
        return problem(GROUP, name, f"a fresh Python ends with: {done.last_words}", "mend it")
    found = json.loads(done.out.splitlines()[-1])
    where = found["multitask.plugin"]
    if where is None:
        text = f"a Python started in {folder} finds no multitask: Axolotl would train without it"
        fix = "pip install multitask; a relative PYTHONPATH is lost"
        return problem(GROUP, name, text, fix)
    own = Path(multitask.__file__).parent.resolve()
    if Path(where).resolve().parent != own:
        text = f"a training would take {where}, and this is {own}"
        return problem(GROUP, name, text, "remove one of the two from the environment")
    if found["axolotl"] is None:
        return ok(GROUP, name, "can be found; Axolotl is not installed")
    return ok(GROUP, name, "can be found from the training's folder; --imports loads it")


def import_checks(subject: Subject) -> Callable[[], list[Check]]:
    """Begin to import torch, compiled packages and the plugins; what is called waits for them.

    Args:
        subject: A run's own list of plugins is taken, where it has one.
    """
    asked = []
    if installed("torch") is not None:
        asked.append(("import torch", _start(subject, _TORCH)))
        for package, module in _COMPILED:
            if installed(package) is not None:
                asked.append((f"import {package}", _start(subject, f"import {module}")))
    if installed("axolotl") is not None:
        plugins = _plugins(subject)
        asked.append(("load plugins", _start(subject, _LOAD, *plugins)))
    return lambda: [_imported(name, pending) for name, pending in asked]


def _start(subject: Subject, code: str, *arguments: str) -> Pending[Check | str]:
    def work() -> Check | str:
        done = run_program(
            [sys.executable, "-c", code, *arguments],
            _IMPORT_SECONDS,
            folder=_folder(subject),
            environment=_environment(),
        )
        if done.code == 0:
            # Libraries print at import; torch's own line is the one that was asked for.
            lines = done.out.strip().splitlines() if code == _TORCH else []
            return lines[-1] if lines else "can be imported"
        words = done.err.strip().splitlines() or [f"exit code {done.code}"]
        return problem(GROUP, "", words[-1], "")

    return Pending(work, _IMPORT_SECONDS + 2)


def _imported(name: str, pending: Pending[Check | str]) -> Check:
    try:
        result = pending.get()
    except NoAnswerError as error:
        return warning(GROUP, name, str(error), "try again: a cold disk is slow the first time")
    if isinstance(result, str):
        return ok(GROUP, name, result)
    fix = "install it anew, built for the installed torch"
    if name == "load plugins":
        fix = "mend what it says: Axolotl only logs it, and trains without the plugin"
    return problem(GROUP, name, result.answer, fix)


def _plugins(subject: Subject) -> list[str]:
    if subject.run is None or not subject.run.engine_file.is_file():
        return [_PLUGIN]
    try:
        config = read_mapping(subject.run.engine_file)
        return [str(plugin) for plugin in config.get("plugins") or []] or [_PLUGIN]
    except (InputError, TypeError):
        return [_PLUGIN]  # told by the checks of the run


def _folder(subject: Subject) -> Path:
    """Where a training is started: the run directory, not the user's own folder."""
    return subject.run.root if subject.run is not None else Path("/")


def _environment() -> dict[str, str]:
    from multitask.runners.axolotl.validate import without_launcher

    environment = without_launcher(os.environ)
    set_library_variables(environment)
    return environment


# The kernel has to suit torch, which a cold disk takes minutes to give.
_KERNEL_SECONDS = 300.0


def kernel_check(group: str, name: str, severity: Severity, hub_seconds: float) -> Check:
    """Whether the kernel that Axolotl then takes is on this machine, or the Hub can be asked.

    Args:
        group: The heading of the check.
        name: Its name.
        severity: How bad it is where neither is so.
        hub_seconds: How long the Hub may take to answer.
    """
    environment = dict(os.environ)
    set_library_variables(environment)
    command = [sys.executable, "-m", "multitask.runners.axolotl.kernels"]
    try:
        done = run_program(command, _KERNEL_SECONDS, environment=environment)
    except NoAnswerError as error:
        return warning(group, name, f"not checked: {error}", "try again: a cold disk is slow")
    if done.code:
        return warning(group, name, f"not checked: {done.last_words}", "mend it")
    folder = done.out.strip().splitlines()[-1] if done.out.strip() else ""
    if folder:
        return ok(group, name, f"not installed; the Hub's kernel is on this machine ({folder})")
    try:
        branches = Pending(_branches, hub_seconds).get()
    except Exception as error:  # noqa: BLE001  whatever keeps us from the Hub keeps training too
        reason = str(error).partition("\n")[0]
    else:
        if f"v{VERSION}" in branches:
            return ok(
                group, name, "not installed; its kernel comes from the Hub as training starts"
            )
        reason = f"{REPOSITORY} has no branch v{VERSION}"
    return judged(
        group,
        name,
        severity,
        "not installed, its kernel is not in the Hub's cache, and training could not fetch it: "
        f"{reason}",
        "run `python -m multitask.runners.axolotl.kernels fetch` where there is a network, on "
        "every node; the image of docker/ has the kernel",
    )


def _branches() -> list[str]:
    from huggingface_hub import HfApi

    refs = HfApi().list_repo_refs(REPOSITORY, repo_type="kernel")
    return [branch.name for branch in refs.branches]
