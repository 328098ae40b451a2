"""Results as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: dict[str, Any]) -> None:
    """Print accuracy and macro-F1 of every task beside the baselines."""
    table = Table(title=f"{results['model']} on {results['split']}", title_justify="left")
    for column in ("task", "n", "score", "95 %", "second", "majority", "TF-IDF + LR"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in results["tasks"].items():
        first, second = list(task["metrics"].items())[:2]
        table.add_row(
            name,
            f"{task['n']:,}",
            f"{_name(first[0])} {_percent(first[1]['value'])}",
            f"{_percent(first[1]['low'])} to {_percent(first[1]['high'])}",
            f"{_name(second[0])} {_percent(second[1]['value'])}",
            *(_baseline(task, key, first[0]) for key in ("majority", "tfidf_logistic_regression")),
        )
    Console().print(table)


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _baseline(task: dict[str, Any], key: str, metric: str) -> str:
    baseline = task["baselines"].get(key)
    return "-" if baseline is None else _percent(baseline[metric]["value"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
