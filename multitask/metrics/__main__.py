"""``python -m multitask.metrics > docs/metrics.md``: all metrics, from the registry."""

from __future__ import annotations

import sys

from multitask.metrics import METRICS
from multitask.metrics.registry import Metric
from multitask.tasks import KINDS

_HEAD = """\
# Metrics

Written by `python -m multitask.metrics`. Every metric has a 95 % interval. A task of a kind has
the kind's metrics, in this order, the first as its headline; its key `metrics` chooses and orders
others, and names your own:

    metrics: [macro_f1, accuracy, my_module:my_metric]

`my_module.py` lies beside the spec or on Python's path, and has a function under
`@metric(name=..., title=...)` of `multitask.metrics`, which takes all rows of the task:

    import numpy as np
    from multitask.metrics import Predictions, metric

    @metric(name="fraud_recall", title="Recall of fraud")
    def my_metric(predictions: Predictions):
        \"\"\"Share of fraud that is found.\"\"\"
        gold, answers = np.array(predictions.gold), np.array(predictions.predicted)
        return float((answers[gold == "fraud"] == "fraud").mean())

`multitask/metrics/registry.py` says what it may take and return, and the interval that follows.
"""


_COLUMNS = """\
| name | title | better | unit | needs | meaning |
| --- | --- | --- | --- | --- | --- |"""


def _row(one: Metric) -> str:
    meaning = (one.function.__doc__ or "").strip().splitlines()[0]
    better = "higher" if one.higher_is_better else "lower"
    needs = ", ".join(f"`{need}`" for need in one.needs)
    return f"| `{one.name}` | {one.title} | {better} | {one.unit} | {needs} | {meaning} |"


def table() -> str:
    """The page: a section for each kind, and one for what no kind has by default."""
    parts = [_HEAD]
    sections = {str(kind): [m for m in METRICS.values() if str(kind) in m.kinds] for kind in KINDS}
    sections["other"] = [one for one in METRICS.values() if not one.kinds]
    for title, metrics in sections.items():
        if metrics:
            parts.append("\n".join([f"## {title}\n", _COLUMNS, *map(_row, metrics), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(table())
