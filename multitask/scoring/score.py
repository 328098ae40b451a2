"""``score``: rows of one task through a model, to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.scoring.encode import Encoded, Encoder, LabelEncoder, PairEncoder, Tokens
from multitask.scoring.generate import generate
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import LabelScorer
from multitask.tasks import Kind, Task

Progress = Callable[[int], None]

MAX_NEW_TOKENS = 128

# An answer to encode a prompt with that has no known one.
_ANY = ("A",)


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one row.

    Attributes:
        task: The row's task.
        id: The row's id.
        gold: The right answer.
        predicted: The label with the highest score, the earlier one of equals; of a generated
            answer, the text.
        labels: The labels that the row can have; empty for a generated answer.
        scores: Log-likelihood of each of them; NaN where it was not needed.
        shares: Of a label whose score is NaN, the log of an equal share of the bound of all
            labels that begin as it does; NaN of the others.
        unvisited: Bound of the probability of the labels whose score is NaN, as a share of that
            of the others.
        dropped: Tokens of the prompt that were left out, because it was longer than the context.
    """

    task: str
    id: str
    gold: str
    predicted: str
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    unvisited: float = 0.0
    dropped: int = 0


def score(
    loaded: LoadedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    unvisited: float | None = 0.0,
    ranks: int = 0,
    scorer: LabelScorer | None = None,
    progress: Progress = lambda _: None,
) -> list[Prediction]:
    """Score rows of a task: over its closed label set, or by greedy generation.

    Args:
        loaded: The model.
        task: The definition that made the rows.
        rows: Rows of a run's split.
        unvisited: How much of the distribution over the labels is wanted. 0: the score of every
            label. A share, such as 1e-3: of the gold label, and of all but labels that together
            hold at most that much of the probability. None: only what proves which label is best.
        ranks: With a share: whether, and where, gold is among so many of the most probable labels
            is wanted too.
        scorer: Scores labels with the model's ``model``; default: a new one.
        progress: Told how many rows are done.

    Returns:
        One prediction per row, in the same order.

    Raises:
        InputError: A row has a phrasing that the task does not have, or two labels have the same
            tokens.
        MultitaskError: The model cannot score a row; it is named.
    """
    if task.kind is Kind.GENERATION:
        return answer(loaded, task, rows, scorer=scorer, progress=progress)
    _check_templates(task, rows)
    if not rows:
        return []
    labels = [task.candidates(tuple(row.get("choices", ()))) for row in rows]
    queries = _encoded(loaded.encoder(), task, rows, labels)
    scorer = scorer or LabelScorer(loaded.model)
    ids = [str(row["id"]) for row in rows]
    right = None
    if unvisited:
        right = [candidates.index(gold(row)) for row, candidates in zip(rows, labels, strict=True)]
    found = scorer.score(
        queries, unvisited=unvisited, gold=right, ranks=ranks, ids=ids, progress=progress
    )
    return [
        Prediction(
            task=task.name,
            id=row["id"],
            gold=gold(row),
            predicted=candidates[scores.best],
            labels=candidates,
            scores=tuple(scores.log_likelihood.tolist()),
            shares=tuple(scores.share.tolist()),
            unvisited=scores.unvisited,
            dropped=query.dropped,
        )
        for row, candidates, query, scores in zip(rows, labels, queries, found, strict=True)
    ]


def answer(
    loaded: LoadedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    scorer: LabelScorer | None = None,
    progress: Progress = lambda _: None,
) -> list[Prediction]:
    """Answer rows freely, token by token, always with the most probable one.

    Args:
        loaded: The model.
        task: The definition that made the rows, of any kind.
        rows: Rows of a run's split.
        max_new_tokens: Longest answer.
        scorer: As for `score`.
        progress: Told how many rows are done.

    Returns:
        One prediction per row, in the same order; ``predicted`` is the text.

    Raises:
        InputError: A row has a phrasing that the task does not have.
        MultitaskError: The model gives a number that is not finite; the row is named.
    """
    _check_templates(task, rows)
    if not rows:
        return []
    encoder = _generating_encoder(loaded, max_new_tokens)
    queries = [
        encoder.encode(row["messages"][0]["content"], _ANY, text=row.get("text", ""))
        for row in rows
    ]
    # Greedy decoding takes NaN for a number; a score shows it.
    first = min(range(len(rows)), key=lambda i: len(queries[i].prompt))
    (scorer or LabelScorer(loaded.model)).score(
        [queries[first]], unvisited=0.0, ids=[str(rows[first]["id"])]
    )
    texts = generate(
        loaded,
        [query.prompt for query in queries],
        max_new_tokens=max_new_tokens,
        progress=progress,
    )
    return [
        Prediction(
            task=task.name, id=row["id"], gold=gold(row), predicted=text, dropped=query.dropped
        )
        for row, query, text in zip(rows, queries, texts, strict=True)
    ]


def longest_response(loaded: LoadedModel, task: Task) -> int:
    """Tokens of the longest answer of a task with a closed label set, the turn's end included.

    Of options that are answered by their text, which differ from row to row, it is not known.
    """
    encoder = loaded.encoder()
    template = task.templates[0]
    responses = tuple(task.response_for(label, template) for label in task.labels)
    answers: tuple[Tokens, ...] = encoder.encode("x", responses, repeats=True).answers
    return max(map(len, answers))


def _generating_encoder(loaded: LoadedModel, max_new_tokens: int) -> LabelEncoder:
    """An encoder that leaves room for the answer; at least half the context is the prompt's."""
    context = loaded.context
    if getattr(loaded.model.config, "is_encoder_decoder", False):
        return PairEncoder(loaded.tokenizer, context=context)
    if context is not None:
        context = max(context - max_new_tokens, (context + 1) // 2)
    return Encoder(loaded.tokenizer, context=context)


def _check_templates(task: Task, rows: Sequence[Row]) -> None:
    known = {template.name for template in task.templates}
    for row in rows:
        if row["template"] not in known:
            raise InputError(
                f"row {row['id']!r} has the unknown template {row['template']!r}",
                where=f"task {task.name!r}",
            )


def _encoded(
    encoder: LabelEncoder, task: Task, rows: Sequence[Row], labels: Sequence[tuple[str, ...]]
) -> list[Encoded]:
    """The queries of rows, those that share their answers together."""
    by_text = task.kind is Kind.MULTIPLE_CHOICE and task.answers == "text"
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        key = i if by_text else (row["template"], labels[i])
        groups.setdefault(key, []).append(i)
    queries: dict[int, Encoded] = {}
    for members in groups.values():
        row = rows[members[0]]
        choices, template = tuple(row.get("choices", ())), task.template(row["template"])
        responses = tuple(
            task.response_for(label, template, choices=choices) for label in labels[members[0]]
        )
        prompts = [rows[i]["messages"][0]["content"] for i in members]
        texts = [rows[i].get("text", "") for i in members]
        if by_text:
            # Options of a question may repeat a text; both then have its score.
            found = [encoder.encode(prompts[0], responses, text=texts[0], repeats=True)]
        else:
            found = encoder.encode_all(prompts, responses, texts=texts)
        queries |= zip(members, found, strict=True)
    return [queries[i] for i in range(len(rows))]


def put_anew(task: Task, row: Row, *, choices: Sequence[str] | None = None, label: str = "") -> Row:
    """A row put into words again, by another task definition or with other options.

    Args:
        task: The definition; its phrasing of the row's name is used.
        row: The row.
        choices: Its options; default: those it has.
        label: Its gold label; default: the one it has.
    """
    from multitask.tasks import Example

    options = tuple(row.get("choices", ()) if choices is None else choices)
    example = Example(row["id"], row["text"], label or gold(row), options)
    template = task.template(row["template"])
    messages = [
        {"role": "user", "content": task.prompt(example, template)},
        {"role": "assistant", "content": task.response(example, template)},
    ]
    key = "label" if "label" in row else "answer"
    anew = {**row, "messages": messages, "text": example.text, key: example.label}
    return anew | ({"choices": options} if options else {})


def answered_by(task: Task, way: str) -> Task:
    """The same multiple choice, answered by ``letter`` or by ``text``."""
    return replace(task, answers="letter" if way == "letter" else "text")
