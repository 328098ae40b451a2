"""Checks of a configuration for combinations that Axolotl accepts, or says too little about.

Each rule is a function from a plan to findings, with the source of the rule beside it (paths are
those of axolotl 0.19, transformers 5.16 and accelerate 1.13). Nothing here imports them, so that
a plan is judged before a cluster is rented and without the `train` extra.
"""

from __future__ import annotations

from typing import Any

from multitask.runners import distributed_checks, run_checks
from multitask.runners.finding import Finding
from multitask.runners.plan import Plan
from multitask.runners.schema import check_schema


def check_traps(
    config: dict[str, Any],
    *,
    on_cpu: bool,
    world_size: int,
    compute_capability: str | None = None,
    model_type: str | None = None,
) -> list[Finding]:
    """Check a whole Axolotl configuration against its target.

    Args:
        config: The configuration as it will be written, the user's keys merged in.
        on_cpu: Whether the training has no GPU.
        world_size: Processes that train together.
        compute_capability: As CUDA names it, ``sm_80``.
        model_type: The model's ``model_type`` in its config.json.

    Returns:
        Findings; errors are what would fail, or silently train something else.
    """
    plan = Plan(config, on_cpu, world_size, compute_capability, model_type)
    rules = (*run_checks.RULES, *distributed_checks.RULES)
    return [finding for rule in rules for finding in rule(plan)]


def check_config(
    config: dict[str, Any],
    *,
    on_cpu: bool,
    world_size: int,
    compute_capability: str | None = None,
    model_type: str | None = None,
) -> list[Finding]:
    """:func:`check_traps` and the schema, with one finding per key where both have one."""
    traps = check_traps(
        config,
        on_cpu=on_cpu,
        world_size=world_size,
        compute_capability=compute_capability,
        model_type=model_type,
    )
    told = {finding.where for finding in traps if finding.severity == "error"}
    return [f for f in check_schema(config) if f.where not in told] + traps
