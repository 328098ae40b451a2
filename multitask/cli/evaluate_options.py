"""The options of ``multitask evaluate``, by what they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MODEL = "Model"
_STATISTICS = "Probabilities"
_COMPARE = "Comparisons"
_WORK = "How the work is done"

Model = Annotated[
    str | None,
    typer.Option(metavar="PATH|ID", help="Score this model.", show_default="the run's trained one"),
]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Name = Annotated[
    str | None, typer.Option(help="Name of the evaluation.", show_default="the model's")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Score only the first N rows of each task.")]
Generate = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Rows of each task that are also answered freely, as when deployed.",
    ),
]
OptionTexts = Annotated[
    bool,
    typer.Option(
        "--option-texts/--no-option-texts",
        help="Score multiple choice both by letter and by the options' texts.",
    ),
]
Permutations = Annotated[
    bool,
    typer.Option(
        "--permutations", help="Ask multiple choice in every cyclic order of the options."
    ),
]

Base = Annotated[
    bool,
    typer.Option(
        "--base",
        help="Evaluate the untuned base model too, as 'base', and compare with it.",
        rich_help_panel=_COMPARE,
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Compare with this earlier evaluation, row by row; repeatable.",
        rich_help_panel=_COMPARE,
    ),
]
Compare = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="SINGLE_RUN",
        help="Compare with a run that was trained on one of the tasks alone; repeatable. See "
        "`multitask init --preset single-task`.",
        rich_help_panel=_COMPARE,
    ),
]
General = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK|FILE",
        help="Score base and tuned model on this task, which is not trained on, to see what was "
        "forgotten: a shipped task, or a YAML file with one; repeatable.",
        rich_help_panel=_COMPARE,
    ),
]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="Add the majority label and TF-IDF + logistic regression.",
        rich_help_panel=_COMPARE,
    ),
]

Distribution = Annotated[
    bool,
    typer.Option(
        "--distribution/--no-distribution",
        help="Score all labels that matter, for log loss, calibration error and confidence; "
        "without, only the best label is proven, several times faster.",
        rich_help_panel=_STATISTICS,
    ),
]
Calibration = Annotated[
    str,
    typer.Option(
        help="temperature, contextual or none; fitted on validation, for the test split.",
        rich_help_panel=_STATISTICS,
    ),
]
TargetPrecision = Annotated[
    float,
    typer.Option(
        help="Precision wanted of answers that are not handed over to a person.",
        rich_help_panel=_STATISTICS,
    ),
]

Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_MODEL),
]
Quantisation = Annotated[
    str | None,
    typer.Option(help="4bit or 8bit; needs a GPU.", rich_help_panel=_MODEL),
]

Processes = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Share the work among N processes of this machine, one GPU each if there are any.",
        rich_help_panel=_WORK,
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Most tokens in a batch; halves by itself when memory runs out.",
        rich_help_panel=_WORK,
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Throw away what an interrupted evaluation of this name has.",
        rich_help_panel=_WORK,
    ),
]
