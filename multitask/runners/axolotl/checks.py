"""Checks of a configuration for combinations that Axolotl accepts, or says too little about.

What its own validator refuses is left to it (`validate`).

Each rule is a function from a plan to findings, with the source of the rule beside it (paths are
those of axolotl 0.19, transformers 5.16 and accelerate 1.13). Nothing here imports them, so that
a plan is judged before a cluster is rented and without the `train` extra.
"""

from __future__ import annotations

from typing import Any

from multitask.checks import Check
from multitask.planning.setup import Setup
from multitask.runners.axolotl import distributed, keys, models, values
from multitask.runners.axolotl.file import axolotl_file
from multitask.runners.axolotl.plan import Plan, number_of
from multitask.runners.axolotl.schema import check_schema

RULES = (
    *distributed.RULES,
    *models.RULES,
    *values.RULES,
    *keys.RULES,
)


def plan_of(setup: Setup, config: dict[str, Any] | None = None) -> Plan:
    """A setup as the checks see it.

    Args:
        setup: What was decided.
        config: The content of axolotl.yaml; default: what the setup gives.
    """
    file, work = axolotl_file(setup), setup.workload
    whole = file.config if config is None else config
    per_sequence = 1.0
    if work is not None and whole.get("sample_packing"):
        length = number_of(whole.get("sequence_len")) or setup.sequence.tokens
        per_sequence = work.rows_per_sequence(int(min(max(length, 1), 1e9)))
    return Plan(
        whole,
        on_cpu=setup.cluster.on_cpu,
        world_size=setup.cluster.world_size,
        compute_capability=setup.cluster.compute_capability,
        model_type=setup.model.model_type,
        model=setup.model,
        method=setup.method,
        own=frozenset(file.own),
        rows=None if work is None else work.rows,
        longest=work.longest if work is not None and work.counted else None,
        sequences=None if work is None else work.rows / per_sequence,
        tokens_per_row=None if work is None else work.tokens_per_row,
        estimate=None if setup.estimate is None else setup.estimate.plan,
    )


def check_traps(plan: Plan) -> list[Check]:
    """Check a whole Axolotl configuration against its target.

    Returns:
        Findings, at most one a key and severity; errors are what would fail, or silently train
        something else.
    """
    found = [finding for rule in RULES for finding in rule(plan)]
    errors = {finding.place for finding in found if not finding.passed}
    kept: dict[tuple[str, str], Check] = {}
    for finding in found:
        if not finding.passed or finding.place not in errors:
            kept.setdefault((finding.place, finding.severity), finding)
    return list(kept.values())


def check_config(plan: Plan) -> list[Check]:
    """:func:`check_traps` and the schema, with one finding per key where both have one."""
    traps = check_traps(plan)
    told = {finding.place for finding in traps if not finding.passed}
    return [f for f in check_schema(plan.config) if f.place not in told] + traps
