"""What results mean, in words: verdicts, losses, hand-over, sharing; the same in every report.

All is read from plain records, as results.json and interference.json hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multitask import formatting
from multitask.formatting import listed, p_value, points, points_interval
from multitask.metrics import METRICS

Record = Mapping[str, Any]

SINGLE = "single-task"
"""What the single-task runs are called among the opponents."""

_SIGNIFICANT = 0.05
# Labels that are named: that lose beyond chance, that lose within, and in each direction.
_MOST_CLEAR, _MOST_UNCLEAR, _MOST_CHANGED = 5, 3, 3
_BUDGETS = {
    "rows": "each row seen as often, in fewer optimizer steps",
    "steps": "as many optimizer steps, each row seen more often",
    "other": "not the same",
}


def title(metric: str) -> str:
    """A metric's name in tables."""
    return METRICS[metric].title if metric in METRICS else metric


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric in METRICS and METRICS[metric].is_share


def number(metric: str, estimate: Record) -> str:
    """A metric's value: in percent where it is a share; ``-`` where there is none."""
    value = estimate["value"]
    return "-" if value is None else formatting.number(value, share=is_share(metric))


def interval(metric: str, estimate: Record, to: str = " to ") -> str:
    """Such as ``84.3 to 86.8``, in the unit of `number`."""
    return formatting.interval(estimate, share=is_share(metric), to=to)


def with_interval(metric: str, estimate: Record) -> str:
    """Such as ``85.6 % (84.3 to 86.8)``."""
    if estimate["value"] is None:
        return "-"
    return f"{number(metric, estimate)} ({interval(metric, estimate)})"


def _higher_is_better(metric: str) -> bool:
    return metric not in METRICS or METRICS[metric].higher_is_better


def _is_gain(metric: str, difference: float) -> bool:
    return (difference > 0) == _higher_is_better(metric)


def _change(metric: str, difference: float) -> str:
    """Such as ``+1.2 points``; ``+0.034`` of a metric that is no share."""
    return f"{points(difference)} points" if is_share(metric) else f"{difference:+.3f}"


def _change_interval(metric: str, difference: Record) -> str:
    if is_share(metric):
        return points_interval(difference)
    return f"{difference['low']:+.3f} to {difference['high']:+.3f}"


# One task against others


def opponents(
    task: str, comparisons: Mapping[str, Record], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every comparison of a task, in the order of results.json; see `opponent`."""
    return [
        opponent(titles.get(name, name), tasks[task])
        for name, tasks in comparisons.items()
        if task in tasks
    ]


def opponent(name: str, record: Record) -> dict[str, Any]:
    """A task's model against one other system on the same rows, by the headline metric.

    Returns:
        ``name``; the ``difference`` (this one minus the other) and its ``interval``, in points
        where the metric is a share, and with its unit as ``change``; ``p``, by Holm over the
        tasks; the ``verdict``: ``better``, ``worse`` or ``unclear``; and ``rows``, how many both
        have.
    """
    metric, difference = next(iter(record["differences"].items()))
    p = record.get("p_holm", record["p_value"])
    clear = p < _SIGNIFICANT and difference["value"] != 0
    sign = "better" if _is_gain(metric, difference["value"]) else "worse"
    change = _change(metric, difference["value"])
    return {
        "name": name,
        "difference": change.removesuffix(" points"),
        "change": change,
        "interval": _change_interval(metric, difference),
        "p": p_value(p),
        "verdict": sign if clear else "unclear",
        "rows": record["n"],
    }


def verdict(found: Sequence[Record]) -> tuple[str, str]:
    """One sentence over all opponents, and its class; the worst news first."""
    worse, better, unclear = (
        [o for o in found if o["verdict"] == kind] for kind in ("worse", "better", "unclear")
    )
    if worse:
        return f"worse than {_names(worse)}", "worse"
    like = f"not clearly different from {listed([o['name'] for o in unclear])}" if unclear else ""
    if not better:
        return like, "unclear"
    return "; ".join(filter(None, (f"better than {_names(better)}", like))), "better"


def _names(found: Sequence[Record]) -> str:
    return listed([f"{o['name']} ({o['change']})" for o in found])


def verdict_by_intervals(
    metric: str, own: Record, baselines: Mapping[str, Record]
) -> tuple[str, str]:
    """Compare with the best baseline by intervals, which is cautious: overlap is not equality.

    Args:
        metric: The headline metric.
        own: Its estimate for the model.
        baselines: Its estimate for each baseline, by title.

    Returns:
        One sentence, and its class.
    """
    if not baselines:
        return "compared with nothing yet", "unclear"
    up = _higher_is_better(metric)
    name = (max if up else min)(baselines, key=lambda key: baselines[key]["value"])
    other = baselines[name]
    against = f"{name} ({number(metric, other)})"
    change = _change(metric, own["value"] - other["value"])
    if own["low"] > other["high"]:
        return f"{change[1:]} over {against}", "better" if up else "worse"
    if own["high"] < other["low"]:
        return f"{change[1:]} under {against}", "worse" if up else "better"
    return f"not clearly different from {against}: {change}, intervals overlap", "unclear"


# What got worse


def got_worse(results: Record, titles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every loss: a sentence and whether it is beyond chance (``worse``) or not (``unclear``).

    The headline is judged by its test, as in `opponent`; any other metric counts as beyond chance
    where the interval of its paired differences does not reach 0.
    """
    for name, tasks in results.get("comparisons", {}).items():
        other = titles.get(name, name)
        for task, record in tasks.items():
            for place, (metric, found) in enumerate(record["differences"].items()):
                if found["value"] == 0 or _is_gain(metric, found["value"]):
                    continue
                p = record.get("p_holm", record["p_value"])
                clear = found["low"] > 0 or found["high"] < 0 if place else p < _SIGNIFICANT
                text = (
                    f"{task}: {title(metric)} {_change(metric, found['value'])} "
                    f"({_change_interval(metric, found)}) against {other}"
                )
                yield (text, "worse") if clear else (f"{text}, within chance", "unclear")
            yield from label_losses(task, record, other)
    for task, record in results["tasks"].items():
        for metric, change in record.get("calibration", {}).get("change", {}).items():
            if change["low"] > 0:
                rise = with_interval(metric, change)
                yield f"{task}: {title(metric)} rose by {rise} through calibration", "worse"


def label_losses(task: str, record: Record, other: str) -> Iterator[tuple[str, str]]:
    """Labels that lose recall: those beyond chance, and the largest of the others.

    Beyond chance is a p-value below 0.05 by Benjamini and Hochberg over the task's labels.
    """
    losses = _changes(record, -1)
    clear = [c for c in losses if c["p_bh"] < _SIGNIFICANT]
    rest = [c for c in losses if c["p_bh"] >= _SIGNIFICANT]
    for change in clear[:_MOST_CLEAR]:
        d = change["difference"]
        text = (
            f"{task}, label {change['label']}: recall {points(d['value'])} points "
            f"({points_interval(d)}; {change['n']} rows, "
            f"p {p_value(change['p_bh'])} over all labels) against {other}"
        )
        yield text, "worse"
    if clear[_MOST_CLEAR:]:
        yield f"{task}: {len(clear) - _MOST_CLEAR} more labels lose recall against {other}", "worse"
    if rest:
        named = ", ".join(
            f"{c['label']} ({points(c['difference']['value'])} points of {c['n']} rows)"
            for c in rest[:_MOST_UNCLEAR]
        )
        more = f", and {len(rest) - _MOST_UNCLEAR} more" if rest[_MOST_UNCLEAR:] else ""
        text = f"{task}: largest drops in recall against {other}, each within chance: {named}{more}"
        yield text, "unclear"


def _changes(record: Record, sign: int) -> list[Any]:
    """The labels whose recall changes in one direction, the largest change first."""
    found = [c for c in record.get("labels", ()) if sign * c["difference"]["value"] > 0]
    return sorted(found, key=lambda c: -sign * c["difference"]["value"])


# Calibration


def hand_over(found: Record) -> dict[str, Any]:
    """What a task's calibration recommends, and whether the evaluated rows bear it out.

    Returns:
        The ``threshold`` (None: hand over everything), the ``target`` precision, ``coverage``
        (the share of rows that are answered) and ``precision`` (the share of those that are
        right) with their intervals, one sentence of ``advice``, and a ``verdict``: ``better``
        where the rows bear the promise out, ``worse`` where they contradict it.
    """
    threshold, target = found["threshold"], f"{100 * found['target_precision']:.0f} %"
    reached = None if threshold is None else found["answered"]["precision"]
    kind = "unclear"
    if threshold is None:
        advice = f"hand everything over: no confidence promises {target} precision"
    else:
        advice = f"answer from a confidence of {threshold:.3f} on, hand the rest over"
    if reached is not None and reached["value"] >= found["target_precision"]:
        kind = "better"
    elif reached is not None and reached["high"] < found["target_precision"]:
        kind = "worse"
        advice += "; but here fewer are right than promised, so fit it again on more rows"
    return {
        "threshold": threshold,
        "target": target,
        "coverage": formatting.with_interval(found["answered"]["coverage"]),
        "precision": None if reached is None else formatting.with_interval(reached),
        "verdict": kind,
        "advice": advice,
    }


def findings(task: Record) -> Iterator[str]:
    """What results.json says of a task beside its table of metrics."""
    metrics = task["metrics"]

    def value(name: str, of: Record = metrics) -> str:
        return number(name, of[name])

    if "text_accuracy" in metrics:
        yield (
            f"options by letter {value('letter_accuracy')}, by text {value('text_accuracy')}, "
            f"by text per character {value('text_accuracy_normalised')}"
        )
    if "consistency" in metrics:
        yield (
            f"over all option orders: accuracy {value('rotated_accuracy')}, same answer "
            f"{value('consistency')}, position bias {value('position_bias')}"
        )
    if "generated" in task:
        free = task["generated"]
        yield (
            f"answered freely, {free['n']} rows: accuracy {value('accuracy', free['metrics'])} "
            f"(closed set {value('accuracy', free['closed_set'])}), off-list "
            f"{value('off_list_rate', free['metrics'])}"
        )
    if "calibration" in task:
        yield _calibration(task["calibration"])
    if task.get("truncated", {}).get("rows"):
        yield f"{task['truncated']['rows']:,} prompts were longer than the context and were cut"


def _calibration(found: Record) -> str:
    before, after, rows = found["before"], found["after"], f"{found['validation_rows']:,}"
    if found["method"] == "none":
        text = (
            f"confidence left as it is: on {rows} validation rows no temperature lowers the log "
            f"loss by more than its standard error (ECE {number('ece', before['ece'])}); "
        )
    else:
        text = (
            f"calibrated on {rows} validation rows ({found['method']}, "
            f"{found['temperature']:.2f}): log loss {before['log_loss']['value']:.3f} to "
            f"{after['log_loss']['value']:.3f}, ECE {number('ece', before['ece'])} to "
            f"{number('ece', after['ece'])}; "
        )
    target = f"{100 * found['target_precision']:.0f} % precision"
    if found["threshold"] is None:
        return text + f"no confidence promises {target}, so all is handed over"
    answered = found["answered"]
    reached = answered["precision"]
    precision = "none" if reached is None else formatting.number(reached["value"])
    return text + (
        f"for {target} answer from {found['threshold']:.3f} on: "
        f"{formatting.number(answered['coverage']['value'])} of rows, {precision} of them right"
    )


# Sharing one model, and forgetting


def sharing(record: Record, results: Record) -> dict[str, Any]:
    """What an interference.json says beside the results.json of its evaluation.

    Returns:
        ``tasks``, each an `opponent` with ``task``, ``own`` and ``other`` (the headline metric of
        the shared model and of its own), ``budget``, and the labels that ``lost`` and ``gained``
        most; the mean relative ``gain`` with its interval (None where it has no value) and its
        ``gain_verdict``; ``not_compared``, tasks without a run of their own; and ``notes``.
    """
    gain = record["relative_gain"]
    gain_verdict = "unclear"
    if gain is not None and not gain["low"] <= 0 <= gain["high"]:
        gain_verdict = "better" if gain["value"] > 0 else "worse"
    return {
        "tasks": [
            _pair(task, found, results["tasks"][task]["metrics"])
            | {"budget": _budget(found["budget"])}
            | {"lost": _changed(found, -1), "gained": _changed(found, 1)}
            for task, found in record["tasks"].items()
        ],
        "gain": gain and f"{points(gain['value'])} % ({points_interval(gain)})",
        "gain_verdict": gain_verdict,
        "not_compared": record["not_compared"],
        "notes": record["notes"],
    }


def forgetting(record: Record) -> dict[str, Any]:
    """What a results.json of general tasks says: ``tasks`` as of `sharing`, and ``notes``."""
    compared = general_comparisons(record)
    tasks = record["tasks"]
    return {
        "tasks": [_pair(name, found, tasks[name]["metrics"]) for name, found in compared.items()],
        "notes": record["notes"],
    }


def general_comparisons(record: Record) -> dict[str, Any]:
    """General tasks against the base model, the only comparison that there is of them."""
    found: dict[str, Any] = next(iter(record["comparisons"].values()), {})
    return found


def _pair(task: str, found: Record, metrics: Record) -> dict[str, Any]:
    metric = next(iter(found["differences"]))
    other = found.get("metrics", {}).get(metric)
    return opponent(SINGLE, found) | {
        "task": task,
        "own": number(metric, metrics[metric]),
        "other": "-" if other is None else number(metric, other),
    }


def _budget(found: Record) -> str:
    own, other = (found[side]["steps"] for side in ("this", "other"))
    text = _BUDGETS[found["same"]]
    return text if None in (own, other) else f"{text} ({other:,} steps against {own:,})"


def _changed(found: Record, sign: int) -> list[dict[str, Any]]:
    return [
        {
            "label": change["label"],
            "points": points(change["difference"]["value"]),
            "rows": change["n"],
            "significant": change["p_bh"] < _SIGNIFICANT,
        }
        for change in _changes(found, sign)[:_MOST_CHANGED]
    ]
