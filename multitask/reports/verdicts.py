"""What an evaluation means: a verdict for each task, what got worse, when to hand over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from multitask.metrics import METRICS
from multitask.reports.words import interval, number, p_value

SIGNIFICANT = 0.05
"""The p-value, by Holm over the tasks, below which a difference is called one."""

# Labels that are named where many lose: beyond chance, and within.
_MOST_CLEAR, _MOST_UNCLEAR = 5, 3


@dataclass(frozen=True)
class Opponent:
    """A task's model against one other system, on the same rows.

    Attributes:
        name: The other.
        metric: What is compared.
        value: The difference, this one minus the other, in points (100 times a share).
        interval: Its 95 % interval, in points.
        p: The p-value in words, by Holm over the tasks.
        verdict: ``better``, ``worse`` or ``unclear``.
        rows: Rows that both have.
    """

    name: str
    metric: str
    value: float
    interval: str
    p: str
    verdict: str
    rows: int


@dataclass(frozen=True)
class HandOver:
    """From which confidence on a task's answers can be used.

    Attributes:
        threshold: Smallest confidence; None: hand over everything.
        target: Precision that is asked for.
        coverage: Share of rows that are answered, with its interval.
        precision: Share of those that are right, with its interval; None when none is answered.
        verdict: ``better`` when the rows bear the promise out, ``worse`` when they contradict it.
        advice: One sentence.
    """

    threshold: float | None
    target: str
    coverage: str
    precision: str | None
    verdict: str
    advice: str


def opponents(
    task: str, comparisons: Mapping[str, Any], titles: Mapping[str, str]
) -> list[Opponent]:
    """Every comparison of a task, in the order of results.json."""
    return [
        opponent(titles.get(name, name), tasks[task])
        for name, tasks in comparisons.items()
        if task in tasks
    ]


def opponent(name: str, record: Mapping[str, Any]) -> Opponent:
    """One comparison of a task, under a name for people."""
    metric, difference = next(iter(record["differences"].items()))
    p = record.get("p_holm", record["p_value"])
    clear = p < SIGNIFICANT and difference["value"] != 0
    sign = "better" if difference["value"] > 0 else "worse"
    return Opponent(
        name=name,
        metric=METRICS[metric].title if metric in METRICS else metric,
        value=100 * difference["value"],
        interval=f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}",
        p=p_value(p),
        verdict=sign if clear else "unclear",
        rows=record["n"],
    )


def verdict(found: list[Opponent]) -> tuple[str, str]:
    """One sentence over all opponents, and its class; the worst news first."""
    worse = [o for o in found if o.verdict == "worse"]
    better = [o for o in found if o.verdict == "better"]
    unclear = [o for o in found if o.verdict == "unclear"]
    if worse:
        return f"worse than {_names(worse)}", "worse"
    if better and not unclear:
        return f"better than {_names(better)}", "better"
    like = f"not clearly different from {_listed([o.name for o in unclear])}"
    if better:
        return f"better than {_names(better)}; {like}", "better"
    return like, "unclear"


def _names(found: list[Opponent]) -> str:
    return _listed([f"{o.name} ({o.value:+.1f} points)" for o in found])


def _listed(names: list[str]) -> str:
    """Such as ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def got_worse(results: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every loss: a sentence and whether it is beyond chance (``worse``) or not (``unclear``).

    The headline is judged by its test, as in `opponents`; any other metric counts as beyond chance
    where the interval of its paired differences lies below 0.
    """
    for name, tasks in results.get("comparisons", {}).items():
        for task, record in tasks.items():
            for place, (metric, found) in enumerate(record["differences"].items()):
                if found["value"] >= 0:
                    continue
                p = record.get("p_holm", record["p_value"])
                clear = found["high"] < 0 if place else p < SIGNIFICANT
                yield (
                    _loss(task, metric, found, titles.get(name, name))
                    + ("" if clear else ", within chance"),
                    "worse" if clear else "unclear",
                )
            yield from label_losses(task, record, titles.get(name, name))
    for task, found in results["tasks"].items():
        yield from _calibration_losses(task, found.get("calibration"))


def label_losses(task: str, record: Mapping[str, Any], other: str) -> Iterator[tuple[str, str]]:
    """Labels that lose recall: those beyond chance, and the largest of the others.

    Beyond chance is a p-value below 0.05 by Benjamini and Hochberg over the task's labels.
    """
    losses = [c for c in record.get("labels", ()) if c["difference"]["value"] < 0]
    losses.sort(key=lambda c: c["difference"]["value"])
    clear = [c for c in losses if c["p_bh"] < SIGNIFICANT]
    for change in clear[:_MOST_CLEAR]:
        d = change["difference"]
        text = (
            f"{task}, label {change['label']}: recall {100 * d['value']:+.1f} points "
            f"({100 * d['low']:+.1f} to {100 * d['high']:+.1f}; {change['n']} rows, "
            f"p {p_value(change['p_bh'])} over all labels) against {other}"
        )
        yield text, "worse"
    if clear[_MOST_CLEAR:]:
        yield f"{task}: {len(clear) - _MOST_CLEAR} more labels lose recall against {other}", "worse"
    rest = [c for c in losses if c["p_bh"] >= SIGNIFICANT]
    if rest:
        named = ", ".join(
            f"{c['label']} ({100 * c['difference']['value']:+.1f} points of {c['n']} rows)"
            for c in rest[:_MOST_UNCLEAR]
        )
        more = f", and {len(rest) - _MOST_UNCLEAR} more" if rest[_MOST_UNCLEAR:] else ""
        text = f"{task}: largest drops in recall against {other}, each within chance: {named}{more}"
        yield text, "unclear"


def _loss(task: str, metric: str, found: Mapping[str, float], other: str) -> str:
    title = METRICS[metric].title if metric in METRICS else metric
    return (
        f"{task}: {title} {100 * found['value']:+.1f} points "
        f"({100 * found['low']:+.1f} to {100 * found['high']:+.1f}) against {other}"
    )


def _calibration_losses(task: str, found: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    for metric, change in (found or {}).get("change", {}).items():
        if change["low"] > 0:
            title = METRICS[metric].title if metric in METRICS else metric
            rise = f"{number(metric, change['value'])} ({interval(metric, change)})"
            yield f"{task}: {title} rose by {rise} through calibration", "worse"


def hand_over(found: Mapping[str, Any]) -> HandOver:
    """What the calibration recommends, and whether the evaluated rows bear it out."""
    target = f"{100 * found['target_precision']:.0f} %"
    answered = found["answered"]
    coverage = _estimate(answered["coverage"])
    if found["threshold"] is None:
        advice = f"hand everything over: no confidence promises {target} precision"
        return HandOver(None, target, coverage, None, "unclear", advice)
    reached = answered["precision"]
    threshold = found["threshold"]
    advice = f"answer from a confidence of {threshold:.3f} on, hand the rest over"
    if reached is None:
        return HandOver(threshold, target, coverage, None, "unclear", advice)
    kind = "better"
    if reached["value"] < found["target_precision"]:
        kind = "worse" if reached["high"] < found["target_precision"] else "unclear"
    if kind == "worse":
        advice += "; but here fewer are right than promised, so fit it again on more rows"
    return HandOver(threshold, target, coverage, _estimate(reached), kind, advice)


def _estimate(found: Mapping[str, float]) -> str:
    return f"{number('', found['value'])} ({interval('', found)})"
