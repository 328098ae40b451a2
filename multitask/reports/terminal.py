"""Results as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: dict[str, Any]) -> None:
    """Print accuracy and macro-F1 of every task beside the baselines."""
    table = Table(title=f"{results['model']} on {results['split']}", title_justify="left")
    for column in ("task", "n", "accuracy", "95 %", "macro-F1", "majority", "TF-IDF + LR"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in results["tasks"].items():
        own, baselines = task["metrics"], task["baselines"]
        table.add_row(
            name,
            f"{task['n']:,}",
            _percent(own["accuracy"]["value"]),
            f"{_percent(own['accuracy']['low'])} to {_percent(own['accuracy']['high'])}",
            _percent(own["macro_f1"]["value"]),
            _percent(baselines["majority"]["accuracy"]["value"]),
            _percent(baselines["tfidf_logistic_regression"]["accuracy"]["value"]),
        )
    Console().print(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
