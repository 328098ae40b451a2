"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multitask.evaluation.baselines import TITLES
from multitask.formatting import p_value, points
from multitask.metrics.registry import adopt
from multitask.reports.load import Report
from multitask.reports.verdicts import (
    Record,
    findings,
    forgetting,
    interval,
    is_share,
    number,
    sharing,
    title,
)

# Beside the headline with its interval; of tasks with a closed label set, and of generation.
_CLOSED = ("accuracy", "macro_f1", "log_loss", "ece")
_FREE = ("exact_match", "token_f1", "rougeL", "bleu")
_SHORT = {"log_loss": "log loss", "ece": "ECE", "token_f1": "token F1", "rougeL": "ROUGE-L"}
_STYLES = {"better": "green", "worse": "red", "unclear": "yellow"}
_MOST_COLUMNS = 4
# Of a log file, where rich would take 80.
_WIDTH = 120


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH))


def _say(console: Console, lines: Iterable[str], before: str = "", kind: str = "") -> None:
    for line in lines:
        console.print(Text(before + line, style=_STYLES.get(kind, "")), highlight=False)


def _columns(metrics: Record) -> tuple[str, ...]:
    """The metrics of a task's table: the usual ones, or the first of its own choice."""
    usual = {columns[0]: columns for columns in (_CLOSED, _FREE)}
    return usual.get(next(iter(metrics)), tuple(metrics)[:_MOST_COLUMNS])


def _table(name: str, columns: Iterable[str], left: Collection[str]) -> Table:
    table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return table


def print_results(results: Record) -> None:
    """Print every task's metrics beside the baselines, and what else was found."""
    adopt(results)
    console = _console()
    groups: dict[tuple[str, ...], dict[str, Record]] = {_CLOSED: {}, _FREE: {}}
    for name, task in results["tasks"].items():
        groups.setdefault(_columns(task["metrics"]), {})[name] = task
    for columns, tasks in groups.items():
        if tasks:
            console.print(_scores(results, tasks, columns))
    for name, task in results["tasks"].items():
        _say(console, findings(task), f"{name}: ")
    if any(results.get("comparisons", {}).values()):
        console.print(_comparisons(results["comparisons"]))
    _say(console, results.get("notes", ()), "note: ")


def print_summary(report: Report) -> None:
    """Print a report's first screen: verdicts, what got worse, when to hand over."""
    console = _console()
    columns = ("task", "score", "95 %", "verdict", "hand over")
    table = _table("Verdict", columns, columns)
    for task in report["tasks"]:
        name = task["names"][0]
        main = task["systems"][0]["metrics"][name]
        table.add_row(
            Text(task["name"]),
            number(name, main),
            interval(name, main, "–"),  # noqa: RUF001 (an en dash)
            Text(task["verdict"], style=_STYLES[task["verdict_class"]]),
            Text(task["hand_over"]["advice"] if task["hand_over"] else "not calibrated"),
        )
    console.print(table)
    if report["sharing"]:
        _print_sharing(console, report["sharing"])
    if report["forgetting"]:
        _print_forgetting(console, report["forgetting"])
    for loss, kind in report["got_worse"]:
        _say(console, [loss], "worse: ", kind)
    _say(console, report["notes"], "note: ")


def print_interference(record: Record, results: Record) -> None:
    """Print an interference.json beside the results.json of its evaluation."""
    _print_sharing(_console(), sharing(record, results))


def print_forgetting(results: Record) -> None:
    """Print a results.json of general tasks."""
    _print_forgetting(_console(), forgetting(results))


def _print_sharing(console: Console, found: Record) -> None:
    console.print(_pairs("what sharing one model gave and took", "together", "alone", found))
    gain = found["gain"] or "none, since a model of one task has no row right"
    _say(console, [gain], "mean relative gain in accuracy: ", found["gain_verdict"])
    _say(console, [f"{task}: no run of it alone" for task in found["not_compared"]])
    _say(console, found["notes"], "note: ")


def _print_forgetting(console: Console, found: Record) -> None:
    name = "forgetting, on tasks that were not trained on"
    console.print(_pairs(name, "after", "before", found))
    _say(console, found["notes"], "note: ")


def _pairs(name: str, own: str, other: str, found: Record) -> Table:
    columns = ("task", "n", own, other, "points", "95 %", "p (Holm)", "")
    table = _table(name, columns, ("task", ""))
    for pair in found["tasks"]:
        kind = pair["verdict"]
        table.add_row(
            Text(pair["task"]),
            f"{pair['rows']:,}",
            pair["own"],
            pair["other"],
            pair["difference"],
            pair["interval"],
            pair["p"],
            Text("not clear" if kind == "unclear" else kind, style=_STYLES[kind]),
        )
    return table


def _scores(results: Record, tasks: Record, columns: tuple[str, ...]) -> Table:
    titles = [_SHORT.get(name, title(name).lower()) for name in columns]
    names = ("task", "n", "model", titles[0], "95 %", *titles[1:])
    table = _table(f"{results['model']} on {results['split']}", names, ("task", "model"))
    for column in table.columns[3:]:
        column.no_wrap = True
    for name, task in tasks.items():
        others = [
            (other, found[name]["metrics"])
            for other, found in results.get("comparisons", {}).items()
            if "metrics" in found.get(name, ())
        ]
        baselines = [(TITLES.get(key, key), found) for key, found in task["baselines"].items()]
        systems = [(results.get("name", "model"), task["metrics"]), *others, *baselines]
        for place, (system, metrics) in enumerate(systems):
            table.add_row(
                "" if place else name,
                "" if place else f"{task['n']:,}",
                system,
                _cell(metrics, columns[0]),
                interval(columns[0], metrics[columns[0]]) if columns[0] in metrics else "-",
                *(_cell(metrics, column) for column in columns[1:]),
                style=None if place else "bold",
                end_section=place == len(systems) - 1,
            )
    return table


def _cell(metrics: Record, name: str) -> str:
    return number(name, metrics[name]) if name in metrics else "-"


def _comparisons(comparisons: Record) -> Table:
    columns = ("minus", "task", "n", "points", "95 %", "p", "p (Holm)")
    table = _table("differences on the same rows", columns, ("minus", "task"))
    for name, tasks in comparisons.items():
        for place, (task, found) in enumerate(tasks.items()):
            metric, difference = next(iter(found["differences"].items()))
            table.add_row(
                "" if place else TITLES.get(name, name),
                task,
                f"{found['n']:,}",
                points(difference["value"]) if is_share(metric) else f"{difference['value']:+.3f}",
                interval(metric, difference),
                p_value(found["p_value"]),
                p_value(found["p_holm"]),
                end_section=place == len(tasks) - 1,
            )
    return table
