"""The plan of a rented run, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from multitask.runpod import api
from multitask.runpod.offers import AFTER_HOURS, Offer


def plan_table(found: Sequence[Offer], max_cost: float | None) -> Table:
    """Shapes in the order in which they are tried."""
    table = Table(
        "shape", "sharding", "GB per GPU", "USD/h", "hours", "expected USD", "at most USD",
        title="What would be rented; the next where one is not to be had", title_justify="left",
    )  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    for offer in found:
        table.add_row(*_cells(offer, max_cost), style="dim" if offer.problem else "")
    return table


def _cells(offer: Offer, max_cost: float | None) -> tuple[str, ...]:
    rate = f"{offer.usd_per_hour:.2f}"
    if offer.setup is None:
        return (offer.shape, f"not possible: {offer.problem}", "", rate, "", "", "")
    sharding, found = str(offer.setup.topology.sharding), offer.setup.estimate
    memory = "?" if found is None else f"{found.memory.total:.1f}"
    if offer.problem:
        return (offer.shape, sharding, f"does not fit: {offer.problem}", rate, "", "", "")
    limit = offer.limit(max_cost)
    return (
        offer.shape,
        sharding,
        memory,
        rate,
        "?" if offer.hours is None else f"{offer.hours:.1f}",
        "?" if offer.usd is None else f"{offer.usd:,.2f}",
        "?" if limit is None else f"{limit:,.2f}",
    )


def plan_notes(found: Sequence[Offer], *, volume: str | None, max_hours: float | None) -> list[str]:
    """What the table's numbers rest on, one sentence a line."""
    prices = dict.fromkeys(offer.price for offer in found)
    notes = [
        (
            f"prices: {'; '.join(prices)}. Container disk at ${api.DISK_USD_PER_GB_MONTH:.2f} a "
            "GB and month is in them; a network volume is billed beside them as long as it exists"
        ),
        (
            f"hours are estimated, with start-up and {60 * AFTER_HOURS:.0f} min for evaluation and "
            "report (docs/estimate.md)"
        ),
        (
            "at most: the machine itself sees to it that no more is spent, also when this program "
            "is gone: it saves a checkpoint, stops and removes itself before"
        ),
    ]
    if max_hours is not None:
        notes.append(f"and at most {max_hours:g} h")
    if any(offer.kind == "cluster" for offer in found):
        notes.append(
            "the catalogue's prices are those of pods: a cluster's rate is read once it exists, "
            "and where it is higher you are asked again"
        )
        if volume is None:
            notes.append("shapes of several nodes need --volume: they share checkpoints on it")
    return notes
