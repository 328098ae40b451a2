"""Queries per second of closed-label scoring, beside lm_eval and a bare forward over the prompts.

    python benchmarks/scoring_speed.py --data-dir ../shared/data --work runs/scoring-speed

A small Llama is trained on banking77 first (kept in WORK; some ten minutes on one core). Then, in
one process, on the same model and the same test rows, all are timed in turns, several times: what
`multitask evaluate` reports as `seconds` with its default settings, this project's scorer in other
ways, lm_eval's `hf` model at its best batch size, and a forward over the prompts alone in
length-sorted batches, the least that any scorer could cost without sharing a prefix.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from multitask.data.prepare import prepare_tasks
from multitask.evaluation.requests import Purpose, Settings, TaskRequests
from multitask.evaluation.results import calibrated, fit_calibration, task_results
from multitask.evaluation.runner import TaskScores
from multitask.scoring.encode import Encoded, Encoder
from multitask.scoring.model import LoadedModel, load_model
from multitask.scoring.readers import even_blocks
from multitask.scoring.scorer import FULL_DISTRIBUTION, Scorer, Scores
from multitask.spec import load_spec
from multitask.tasks import Task
from multitask.toy import ToySize, write_toy_model

Rows = Sequence[dict[str, Any]]
DEFAULT = "**evaluate, default settings**"
SIZES = {
    "2M": ToySize(),
    "30M": ToySize(hidden=640, layers=6, heads=10),
}


@dataclass(frozen=True)
class Data:
    """banking77 in words.

    Attributes:
        train: Training rows.
        test: Test rows, in a random but fixed order.
        labels: The 77 labels.
        task: The definition.
    """

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    labels: list[str]
    task: Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1024, help="test rows for this scorer")
    parser.add_argument("--lm-eval-rows", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    data = read_data(arguments.data_dir, arguments.work)
    trained = arguments.work / "trained-2M"
    if not trained.exists():
        train(trained, data, arguments.epochs)
    if arguments.train_only:
        return
    models = [("2M trained", trained)]
    for name, size in SIZES.items():
        folder = arguments.work / f"untrained-{name}"
        if not folder.exists():
            write_toy_model(folder, texts(data.train), size=size)
        models.append((f"{name} untrained", folder))
    for name, folder in models:
        # What has not learnt the task, or is large, is slow everywhere: fewer rows tell enough.
        fewer = {"2M trained": 1, "2M untrained": 4, "30M untrained": 16}[name]
        few = data.test[: max(4, arguments.lm_eval_rows // fewer)]
        most = data.test[: arguments.rows // fewer]
        compare(name, load_model(str(folder)), data.task, few, most, arguments.repeat)


def read_data(data_dir: Path, work: Path) -> Data:
    """The rows as `multitask prepare` words them."""
    spec = {
        "model": "placeholder/model",
        "tasks": ["banking77"],
        "method": "full",
        "cluster": "cpu",
        "split": {"train": 0.99},
        "templates": {"phrasings": 1},
        "data_dir": str(data_dir.resolve()),
        "leakage": {"near_duplicates": False},
    }
    path = work / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    prepared = prepare_tasks(load_spec(path))
    rows = [json.loads(line) for line in prepared.lines("test")]
    random.Random(0).shuffle(rows)
    every = [json.loads(line) for line in prepared.lines("train")]
    task = prepared.tasks[0].task
    return Data(every, rows, list(task.labels), task)


def texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [message["content"] for row in rows for message in row["messages"]]


def train(folder: Path, data: Data, epochs: int) -> None:
    """A plain loop: AdamW, cosine, batches of like length."""
    import torch

    unfinished = folder.with_name("unfinished")
    print(f"model: {write_toy_model(unfinished, texts(data.train)):,} parameters", flush=True)
    loaded = load_model(str(unfinished))
    model, encoder = loaded.model, Encoder(loaded.tokenizer)
    rows = [
        encoded.prompt + encoded.answers[0]
        for row in data.train
        for encoded in [encoder.encode(texts([row])[0], texts([row])[1:])]
    ]
    order, rng = sorted(range(len(rows)), key=lambda i: len(rows[i])), random.Random(0)
    batches = [order[i : i + 48] for i in range(0, len(order), 48)]
    optimizer = torch.optim.AdamW(model.parameters(), 2.5e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.5e-3, total_steps=epochs * len(batches), pct_start=0.08
    )
    begin, average = time.perf_counter(), 0.0
    model.train()
    for epoch in range(epochs):
        # Chunks of neighbours are shuffled anew, so that batches are not always the same rows.
        order.sort(key=lambda i: len(rows[i]) + rng.random() * 3)
        batches = [order[i : i + 48] for i in range(0, len(order), 48)]
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(rows[i]) for i in batch)
            ids = torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in batch])
            # The queries are learnt too: random weights know no language.
            loss = model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average = 0.98 * average + 0.02 * loss.item()
        print(f"epoch {epoch + 1}: {average:.3f} ({time.perf_counter() - begin:.0f} s)", flush=True)
    model.eval().save_pretrained(unfinished)
    unfinished.rename(folder)


def compare(name: str, loaded: LoadedModel, task: Task, few: Rows, most: Rows, repeat: int) -> None:
    """Print one model's table."""
    labels = list(task.labels)
    lm_eval, size = best_lm_eval(loaded, few[:2], labels)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "prompts alone": (len(most), lambda: prompts_alone(loaded, most)),
        "best label": (len(most), lambda: ours(loaded, most, labels, None)),
        DEFAULT: (len(most), lambda: evaluated(loaded, task, most)),
        "every label": (len(few), lambda: ours(loaded, few, labels, 0.0)),
    }
    if "untrained" not in name:
        wide = [*labels, *more_labels(labels, 5000 - len(labels))]
        ways["best of 5,000 labels"] = (len(most), lambda: ours(loaded, most, wide, None))
    seconds: dict[str, list[float]] = {key: [] for key in [*ways, "lm_eval"]}
    results: dict[str, Any] = {}
    for turn in range(repeat):
        # lm_eval is slow, and its time varies little: the first turns are enough.
        turns = ways | ({"lm_eval": (len(few), lambda: lm_eval(few))} if turn < 2 else {})
        for key, (count, way) in turns.items():
            begin = time.perf_counter()
            results[key] = way()
            seconds[key].append((time.perf_counter() - begin) / count)
    best, reference = results["best label"], results["lm_eval"]
    right = np.mean([labels[i] == r["label"] for i, r in zip(best.best, most, strict=True)])
    print(f"\n### {name}: {100 * right:.1f} % right of {len(most)} rows\n")
    each = {key: median(found) for key, found in seconds.items()}
    print("| way | queries/s | times lm_eval | of the prompts alone |")
    print("| --- | ---: | ---: | ---: |")
    for key, value in sorted(each.items(), key=lambda item: -item[1]):
        label = f"lm_eval (batch {size})" if key == "lm_eval" else key
        print(
            f"| {label} | {1 / value:,.1f} | {each['lm_eval'] / value:.1f} "
            f"| {value / each['prompts alone']:.2f} |"
        )
    print(agreement(best, results["every label"], reference))
    print(f"Labels scored per query: {best.scored.sum(1).mean():.2f}.", flush=True)
    if "untrained" not in name:
        print(moves(task, results[DEFAULT], loaded, most), flush=True)


def evaluated(
    loaded: LoadedModel, task: Task, rows: Rows, max_residual: float = FULL_DISTRIBUTION
) -> TaskScores:
    """What `evaluate` times: blocks of rows, from texts to scores."""
    requests, scorer = TaskRequests(task, Purpose.SCORES, rows, max_residual), Scorer(loaded)
    blocks = requests.blocks(Settings().block)
    scores = Scores.join([requests.run(scorer, places, lambda _: None) for places in blocks])
    order = np.argsort([place for places in blocks for place in places])
    return TaskScores(requests, scores.take(order.tolist()), 0.0)


def moves(task: Task, quick: TaskScores, loaded: LoadedModel, rows: Rows) -> str:
    """The figures that differ most from those of all scores of all labels."""
    exact = evaluated(loaded, task, rows, 0.0)
    mine, theirs = figures(task, quick), figures(task, exact)
    moved = sorted(((abs(mine[k] - theirs[k]), k) for k in theirs), reverse=True)
    left = quick.scores.residual_mass
    told = "; ".join(f"{key} {theirs[key]:.4f} by {value:.1e}" for value, key in moved[:4])
    return (
        f"Probability not scored: mean {left.mean():.1e}, at most {left.max():.1e} of a row. Of "
        f"{len(moved)} figures those that moved most: {told}."
    )


def figures(task: Task, whole: TaskScores) -> dict[str, float]:
    """Values and intervals of all metrics, and of the calibration of one half by the other."""
    count = len(whole.rows)
    first, second = (
        TaskScores(
            replace(whole.requests, rows=[whole.rows[i] for i in half]), whole.scores.take(half), 0
        )
        for half in (range(count // 2), range(count // 2, count))
    )
    target = Settings().target_precision
    calibration = calibrated(fit_calibration({Purpose.VALIDATION: first}, target), second)
    sides = {s: calibration[s] for s in ("before", "after", "change")}
    sides["metrics"] = task_results(task, {Purpose.SCORES: whole}, Settings())["metrics"]
    return {"temperature": calibration["temperature"]} | {
        f"{side} {name} {end}": value
        for side, found in sides.items()
        for name, estimate in found.items()
        for end, value in estimate.items()
    }


def agreement(best: Scores, every: Scores, reference: np.ndarray[Any, Any]) -> str:
    """How far this scorer and lm_eval say the same."""
    gap = every.log_probs - reference
    gap -= gap.mean(1, keepdims=True)
    same = sum(
        scores[chosen] >= scores.max() - 1e-4
        for scores, chosen in zip(reference, best.best, strict=False)
    )
    return (
        f"\nSame best label as lm_eval in {same} of {len(reference)} rows; after a constant per "
        f"query, scores differ by at most {np.abs(gap).max():.1e}."
    )


def ours(
    loaded: LoadedModel, rows: Sequence[dict[str, Any]], labels: Sequence[str], unvisited: Any
) -> Scores:
    """This scorer, from texts to scores."""
    return Scorer(loaded).score_tokens(encode(loaded, rows, labels), max_residual=unvisited)


def encode(
    loaded: LoadedModel, rows: Sequence[dict[str, Any]], labels: Sequence[str]
) -> list[Encoded]:
    encoder = Encoder(loaded.tokenizer)
    return encoder.encode_all([row["messages"][0]["content"] for row in rows], labels)


def prompts_alone(loaded: LoadedModel, rows: Sequence[dict[str, Any]]) -> None:
    """A bare forward over the prompts in length-sorted batches; logits at the last place alone."""
    import torch

    prompts = [query.prompt for query in encode(loaded, rows, ["x"])]
    prompts.sort(key=len, reverse=True)
    lengths = np.array([len(prompt) for prompt in prompts])
    begin = 0
    with torch.inference_mode():
        for count, width in even_blocks(lengths, 256):
            end = begin + count
            while begin < end:
                batch = prompts[begin : min(end, begin + max(1, 2048 // width))]
                begin += len(batch)
                _forward_alone(loaded, batch)


def _forward_alone(loaded: LoadedModel, batch: Sequence[Sequence[int]]) -> None:
    import torch

    width = len(batch[0])
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in batch]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
    loaded.model(
        input_ids=torch.tensor(ids, device=loaded.model.device),
        attention_mask=torch.tensor(mask, device=loaded.model.device),
        use_cache=False,
        logits_to_keep=1,
    )


def best_lm_eval(
    loaded: LoadedModel, rows: Sequence[dict[str, Any]], labels: Sequence[str]
) -> tuple[Callable[[Sequence[dict[str, Any]]], np.ndarray[Any, Any]], int]:
    """lm_eval's `hf` model at the batch size that is fastest here."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = loaded.tokenizer

    def score(rows: Sequence[dict[str, Any]], size: int) -> np.ndarray[Any, Any]:
        model = HFLM(pretrained=loaded.model, tokenizer=tokenizer, batch_size=size)
        requests = []
        for row in rows:
            context = tokenizer.apply_chat_template(
                row["messages"][:1], tokenize=False, add_generation_prompt=True
            )
            requests += [
                Instance("loglikelihood", {}, (context, label + tokenizer.eos_token), i)
                for i, label in enumerate(labels)
            ]
        found = model.loglikelihood(requests, disable_tqdm=True)
        return np.array([value for value, _ in found]).reshape(len(rows), len(labels))

    times = {}
    for size in (8, 32, 77, 154, 308):
        begin = time.perf_counter()
        score(rows, size)
        times[size] = time.perf_counter() - begin
    best = min(times, key=times.__getitem__)
    return lambda rows: score(rows, best), best


def more_labels(labels: Sequence[str], count: int) -> list[str]:
    """Labels in the manner of the given ones: their words, put together anew."""
    rng, words = random.Random(0), sorted({w for label in labels for w in label.split("_")})
    found: dict[str, None] = {}
    while len(found) < count:
        label = "_".join(rng.choice(words) for _ in range(rng.randint(2, 5)))
        if label not in labels:
            found[label] = None
    return list(found)


if __name__ == "__main__":
    main()
