"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multitask.metrics import METRICS
from multitask.reports.sharing import Forgetting, Pair, Sharing, forgetting, sharing
from multitask.reports.words import findings, interval, number, p_value

BASELINES = {
    "majority": "majority label",
    "tfidf_logistic_regression": "TF-IDF + LR",
}

if TYPE_CHECKING:
    from multitask.reports.content import ReportContent

# Beside the headline with its interval; of tasks with a closed label set, and of generation.
_CLOSED = ("accuracy", "macro_f1", "log_loss", "ece")
_FREE = ("exact_match", "token_f1", "rougeL", "bleu")
_SHORT = {
    "log_loss": "log loss",
    "ece": "ECE",
    "token_f1": "token F1",
    "rougeL": "ROUGE-L",
}

# Of a log file, where rich would take 80.
_WIDTH = 110


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH))


def print_results(results: dict[str, Any]) -> None:
    """Print every task's metrics beside the baselines, and what else was found."""
    console = _console()
    for columns in (_CLOSED, _FREE):
        tasks = {n: t for n, t in results["tasks"].items() if columns[0] in t["metrics"]}
        if tasks:
            title = f"{results['model']} on {results['split']}"
            console.print(_scores(title, results, tasks, columns))
    for name, task in results["tasks"].items():
        for line in findings(task):
            console.print(f"{name}: {line}", highlight=False, markup=False)
    if any(results.get("comparisons", {}).values()):
        console.print(_comparisons(results["comparisons"]))
    for note in results.get("notes", ()):
        console.print(f"note: {note}", highlight=False, markup=False)


_STYLES = {"better": "green", "worse": "red", "unclear": "yellow"}


def print_summary(content: ReportContent) -> None:
    """Print a report's first screen: verdicts, what got worse, when to hand over."""
    console = _console()
    table = Table(title="Verdict", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("task", "score", "95 %", "verdict", "hand over"):
        table.add_column(column, overflow="fold")
    for task in content.tasks:
        main = task.systems[0].main
        advice = task.hand_over.advice if task.hand_over else "not calibrated"
        table.add_row(
            Text(task.name),
            main.percent(),
            main.interval(),
            Text(task.verdict, style=_STYLES[task.verdict_class]),
            Text(advice),
        )
    console.print(table)
    if content.sharing is not None:
        _print_sharing(console, content.sharing)
    if content.forgetting is not None:
        _print_forgetting(console, content.forgetting)
    for loss, kind in content.got_worse:
        console.print(Text(f"worse: {loss}", style=_STYLES[kind]), highlight=False)
    for note in content.notes:
        console.print(Text(f"note: {note}"), highlight=False)


def print_interference(record: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Print an interference.json beside the results.json of its evaluation."""
    _print_sharing(_console(), sharing(record, results))


def print_forgetting(results: Mapping[str, Any]) -> None:
    """Print a results.json of general tasks."""
    _print_forgetting(_console(), forgetting(results))


def _print_sharing(console: Console, found: Sharing) -> None:
    console.print(_pairs("what sharing one model gave and took", "together", "alone", found.tasks))
    gain = found.gain or "none, since a model of one task has no row right"
    text = f"mean relative gain in accuracy: {gain}"
    console.print(Text(text, style=_STYLES[found.gain_verdict]), highlight=False)
    for task in found.not_compared:
        console.print(Text(f"{task}: no run of it alone"), highlight=False)
    for note in found.notes:
        console.print(Text(f"note: {note}"), highlight=False)


def _print_forgetting(console: Console, found: Forgetting) -> None:
    title = "forgetting, on tasks that were not trained on"
    console.print(_pairs(title, "after", "before", found.tasks))
    for note in found.notes:
        console.print(Text(f"note: {note}"), highlight=False)


def _pairs(title: str, own: str, other: str, pairs: Sequence[Pair]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("task", "n", own, other, "points", "95 %", "p (Holm)", ""):
        table.add_column(column, justify="left" if column in ("task", "") else "right")
    for pair in pairs:
        found = pair.opponent
        table.add_row(
            Text(pair.task),
            f"{found.rows:,}",
            pair.own,
            pair.other,
            f"{found.value:+.1f}",
            found.interval,
            found.p,
            Text(
                "not clear" if found.verdict == "unclear" else found.verdict,
                style=_STYLES[found.verdict],
            ),
        )
    return table


def _scores(
    title: str, results: Mapping[str, Any], tasks: Mapping[str, Any], columns: tuple[str, ...]
) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("task", "n", "model"):
        table.add_column(column, justify="right" if column == "n" else "left", overflow="fold")
    titles = [_title(name) for name in columns]
    for column in (titles[0], "95 %", *titles[1:]):
        table.add_column(column, justify="right", no_wrap=True)
    for name, task in tasks.items():
        systems = _systems(name, task, results)
        for place, (system, metrics) in enumerate(systems):
            table.add_row(
                "" if place else name,
                "" if place else f"{task['n']:,}",
                system,
                number(columns[0], metrics[columns[0]]["value"]),
                interval(columns[0], metrics[columns[0]]),
                *(_cell(metrics, column) for column in columns[1:]),
                style=None if place else "bold",
                end_section=place == len(systems) - 1,
            )
    return table


def _systems(
    name: str, task: Mapping[str, Any], results: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The model, its opponents on the same rows, and the baselines, with their metrics."""
    others = [
        (other, tasks[name]["metrics"])
        for other, tasks in results.get("comparisons", {}).items()
        if "metrics" in tasks.get(name, ())
    ]
    baselines = [(BASELINES.get(key, key), m) for key, m in task["baselines"].items()]
    return [(results.get("name", "model"), task["metrics"]), *others, *baselines]


def _title(metric: str) -> str:
    return _SHORT.get(metric, METRICS[metric].title.lower())


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    return number(name, metrics[name]["value"]) if name in metrics else "-"


def _comparisons(comparisons: Mapping[str, Any]) -> Table:
    table = Table(title="differences on the same rows", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("minus", "task", "n", "points", "95 %", "p", "p (Holm)"):
        left = column in ("minus", "task")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for name, tasks in comparisons.items():
        for place, (task, found) in enumerate(tasks.items()):
            metric, difference = next(iter(found["differences"].items()))
            table.add_row(
                "" if place else BASELINES.get(name, name),
                task,
                f"{found['n']:,}",
                f"{100 * difference['value']:+.1f}",
                interval(metric, difference),
                p_value(found["p_value"]),
                p_value(found["p_holm"]),
                end_section=place == len(tasks) - 1,
            )
    return table
