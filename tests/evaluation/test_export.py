"""The harness itself reproduces the accuracies on an exported folder."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml

from multitask.data.fingerprint import normalised
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.export import PREFIX, export_lm_eval, model_arguments
from multitask.evaluation.requests import Settings, read_inputs
from multitask.run import Run
from multitask.scoring.model import load_model
from multitask.spec import load_spec
from tests.trained import trained_run

pytest.importorskip("torch")

SETTINGS = Settings(calibration="none", baselines=False, generate=0, max_residual=0.0)


def _export(run: Run, folder: Path) -> dict[str, int]:
    inputs = read_inputs(run, "test", None, SETTINGS)
    loaded = load_model(str(run.model))
    return export_lm_eval(run, folder, loaded, inputs.tasks, inputs.rows)


def _harness(run: Run, folder: Path, names: list[str]) -> dict[str, Any]:
    """Start lm_eval as the README says, but in this process and without its own tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    before = Path.cwd()
    os.chdir(folder)
    try:
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=model_arguments(str(run.model)),
            tasks=names,
            task_manager=TaskManager(include_path=".", include_defaults=False),
            batch_size=16,
            device="cpu",
            bootstrap_iters=0,
        )
    finally:
        os.chdir(before)
    assert found is not None
    return found


def test_the_harness_gives_our_accuracies(
    trained_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context beyond every prompt: the two cut longer ones at different places."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    config = trained_copy.model / "config.json"
    content = orjson.loads(config.read_bytes()) | {"max_position_embeddings": 512}
    config.write_bytes(orjson.dumps(content))
    outcome = evaluate(trained_copy, settings=SETTINGS)
    exported = _export(trained_copy, tmp_path / "out")
    assert list(exported.values()) == [0, 0, 0]
    theirs = _harness(trained_copy, tmp_path / "out", [PREFIX + task for task in exported])
    for name, task in outcome.results["tasks"].items():
        accuracy = theirs["results"][f"multitask_{name}"]["acc,none"]
        assert accuracy == pytest.approx(task["metrics"]["accuracy"]["value"], abs=1e-9)
    table = pq.read_table(outcome.directory / "predictions.parquet").to_pylist()
    predicted = {(row["task"], row["id"]): row["predicted"] for row in table}
    for name in outcome.results["tasks"]:
        for sample in theirs["samples"][f"multitask_{name}"]:
            answer = predicted[name, sample["doc"]["id"]]
            labels = [entry["label"] for entry in _scores(table, name, sample["doc"]["id"])]
            likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
            assert labels[max(range(len(labels)), key=likelihoods.__getitem__)] == answer
    assert len({answer for (task, _), answer in predicted.items() if task == "banking77"}) > 2


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model that answers freely, and test rows whose references differ from it in white space,
    in case, or in a ligature."""
    folder = tmp_path_factory.mktemp("generating")
    answers = ["red fox", "fine cat", "old dog"]
    references = ["redfox", "RED  fox", "red fox", "\ufb01ne cat", "olddog", "Old dog"]
    train = [(f"say {answers[i % 3]} {i}", answers[i % 3]) for i in range(60)]
    test = [(f"say {answers[i // 3]} {60 + i}", text) for i, text in enumerate(references[:3])]
    test += [(f"say fine cat {70 + i}", references[3]) for i in range(2)]
    test += [(f"say old dog {80 + i}", text) for i, text in enumerate(references[4:])]
    for name, rows in {"train": train, "test": test}.items():
        lines = [orjson.dumps({"prompt": prompt, "response": text}) for prompt, text in rows]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    task = {
        "name": "echo",
        "kind": "generation",
        "source": {"train": "train.jsonl", "test": "test.jsonl"},
    }
    spec = {
        "model": "owner/model", "tasks": [task], "cluster": "cpu", "method": "full",
        "leakage": {"near_duplicates": False},
    }  # fmt: skip
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return trained_run(load_spec(folder / "spec.yaml"), folder / "run", steps=150)


def test_the_harness_gives_our_exact_match(
    generating: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own filters can only delete white space (``regexes_to_ignore`` of lm_eval's
    ``exact_match``, lm_eval/api/metrics.py), which makes "redfox" of "red fox"."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    outcome = evaluate(generating, settings=SETTINGS)
    _export(generating, tmp_path / "out")
    name = f"{PREFIX}echo"
    theirs = _harness(generating, tmp_path / "out", [name])
    ours = outcome.results["tasks"]["echo"]["metrics"]["exact_match"]["value"]
    assert theirs["results"][name]["exact_match,none"] == pytest.approx(ours, abs=1e-9)
    table = pq.read_table(outcome.directory / "predictions.parquet").to_pylist()
    hits = {row["id"]: normalised(row["predicted"]) == normalised(row["gold"]) for row in table}
    for sample in theirs["samples"][name]:
        assert sample["exact_match"] == hits[sample["doc"]["id"]]
    assert 0 < ours < 1


def test_the_exported_rule_collapses_white_space_and_deletes_none(
    generating: Run, tmp_path: Path
) -> None:
    _export(generating, tmp_path / "out")
    rule = runpy.run_path(str(tmp_path / "out" / "echo" / "exact_match.py"))["process_results"]
    pairs = {("a b", "ab"): 0.0, ("a b", "A \t b\n"): 1.0, ("\ufb01ne", "FINE"): 1.0}
    for (reference, answer), expected in pairs.items():
        assert rule({"gold": reference}, [answer]) == {"exact_match": expected}


def _scores(table: list[dict[str, Any]], task: str, name: str) -> list[dict[str, Any]]:
    scores: list[dict[str, Any]] = next(
        row["scores"] for row in table if (row["task"], row["id"]) == (task, name)
    )
    return scores


def test_a_folder_has_the_tokens_of_training(trained: Run, tmp_path: Path) -> None:
    exported = _export(trained, tmp_path / "out")
    loaded = load_model(str(trained.model))
    encoder = loaded.encoder()
    rows = read_inputs(trained, "test", None, SETTINGS).rows
    for name in exported:
        config = yaml.safe_load((tmp_path / "out" / name / f"{name}.yaml").read_text())
        assert config["task"] == PREFIX + name
        lines = (tmp_path / "out" / name / "rows.jsonl").read_bytes().splitlines()
        assert len(lines) == len(rows[name])
        for line, row in zip(lines, rows[name], strict=True):
            record = orjson.loads(line)
            user, assistant = (message["content"] for message in row["messages"])
            text = record["prompt"] + record["choices"][record["gold"]]
            encoded = encoder.encode(user, (assistant,))
            if not encoded.dropped:
                ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tuple(ids) == encoded.prompt + encoded.answers[0]


def test_an_existing_folder_is_not_overwritten(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        _export(trained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
