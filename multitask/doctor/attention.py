"""Whether a training finds flash attention where the package flash-attn is not installed."""

from __future__ import annotations

import os
import sys

from multitask.doctor.bounded import NoAnswerError, Pending, run_program
from multitask.doctor.check import Check, State, ok, warning
from multitask.quiet import set_library_variables
from multitask.runners.kernels import REPOSITORY, VERSION

# The kernel has to suit torch, which a cold disk takes minutes to give.
_SECONDS = 300.0


def kernel_check(group: str, name: str, severity: State, hub_seconds: float) -> Check:
    """Whether the kernel that Axolotl then takes is on this machine, or the Hub can be asked.

    Args:
        group: The heading of the check.
        name: Its name.
        severity: How bad it is where neither is so.
        hub_seconds: How long the Hub may take to answer.
    """
    environment = dict(os.environ)
    set_library_variables(environment)
    command = [sys.executable, "-m", "multitask.runners.kernels"]
    try:
        done = run_program(command, _SECONDS, environment=environment)
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
    return Check(
        group,
        name,
        severity,
        "not installed, its kernel is not in the Hub's cache, and training could not fetch it: "
        f"{reason}",
        "run `python -m multitask.runners.kernels fetch` where there is a network, on every node; "
        "the image of docker/ has the kernel",
    )


def _branches() -> list[str]:
    from huggingface_hub import HfApi

    refs = HfApi().list_repo_refs(REPOSITORY, repo_type="kernel")
    return [branch.name for branch in refs.branches]
