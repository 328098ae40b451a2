"""Per-task evaluation, balance, selection and tracking inside real Axolotl trainings."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.data.readers import read_rows
from multitask.run import Run
from multitask.runners.axolotl.validate import axolotl_installed
from multitask.tasks import Task, task_from_record
from tests.callbacks.trainings import TASKS, build, lines, start

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]
_HF, _WANDB = "hf_plantedPLANTEDplanted0123456789", "0123456789abcdefPLANTED0123456789abcdef0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """One process, twelve steps, told to every tracker, none of which has a server."""
    run = build(
        folder,
        checkpoint={"save_steps": 6, "keep": 2},
        tracking={
            "wandb": {"project": "toys"},
            "tensorboard": True,
            "mlflow": {"experiment": "toys", "name": "first"},
            "trackio": {"project": "toys"},
        },
        axolotl={"max_steps": 12, "logging_steps": 5},
    )
    home = folder / "home"
    home.mkdir()
    names = ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "HF_HOME")
    start(run, without=names, HOME=str(home), HF_TOKEN=_HF)
    (run.root / "first.json").write_text((run.model / "best.json").read_text())
    return run


@pytest.fixture(scope="module")
def resumed(run: Run, folder: Path) -> Run:
    """The same training, gone on with for four steps more."""
    arguments = ("--max_steps=16", "--auto_resume_from_checkpoints=True")
    environment = {"HF_TOKEN": _HF, "WANDB_API_KEY": _WANDB, "WANDB_MODE": "offline"}
    start(run, *arguments, HOME=str(folder / "home"), **environment)
    return run


def test_each_task_is_evaluated_at_the_start_and_at_every_save(run: Run) -> None:
    found = [line for line in lines(run.evaluation_log) if line["step"] <= 12]
    assert [line["step"] for line in found] == [0, 6, 12]
    for line in found:
        for task in TASKS:
            assert 0 <= line[f"eval/{task}/exact_match"] <= line[f"eval/{task}/token_accuracy"] <= 1
    assert found[-1]["eval/text_claims/loss"] < found[0]["eval/text_claims/loss"]
    assert 0 < found[-1]["eval/share"] < 1


def test_the_trainer_s_own_logs_have_the_same_numbers(run: Run) -> None:
    history = json.loads((run.model / "checkpoint-12/trainer_state.json").read_text())[
        "log_history"
    ]
    events = [e["values"] for e in lines(run.trainer_events) if e["event"] == "log"]
    for line in lines(run.evaluation_log)[:3]:
        metrics = {k: v for k, v in line.items() if k.count("/") == 2}
        assert any(metrics.items() <= entry.items() for entry in history)
        assert any(metrics.items() <= entry.items() for entry in events)


def _score_gold(run: Run, checkpoint: Path) -> dict[str, tuple[float, float, int]]:
    """Per task, what multitask's own scorer and generation say of the evaluated rows."""
    from multitask.scoring.model import load_model
    from multitask.scoring.score import requests_of
    from multitask.scoring.scorer import Scorer

    loaded = load_model(str(checkpoint))
    scorer = Scorer(loaded)
    manifest = json.loads(run.manifest.read_text())["tasks"]
    chosen = json.loads(run.evaluation_rows.read_text())
    found = {}
    for name in TASKS:
        task: Task = task_from_record(name, manifest[name])
        wanted = set(chosen[name])
        rows = [r for r in read_rows(run.split("validation")) if r["id"] in wanted]
        rows = [r for r in rows if r["task"] == name]
        assert len(rows) == len(wanted)
        requests = requests_of(task, rows)
        places = [request.gold for request in requests]
        golds = scorer.score(requests).log_probs[range(len(rows)), places]
        texts = scorer.generate(requests, max_new_tokens=32).texts
        right = [t == r["messages"][1]["content"] for t, r in zip(texts, rows, strict=True)]
        found[name] = (-sum(golds), sum(right) / len(rows), len(rows))
    return found


def test_evaluation_in_the_training_is_what_the_scorer_says_of_the_checkpoint(run: Run) -> None:
    """Exact match is greedy generation's; the loss is the log-likelihood of the gold answers."""
    line = next(line for line in lines(run.evaluation_log) if line["step"] == 12)
    tokens = _answer_tokens(run)
    for task, (loss, exact, rows) in _score_gold(run, run.model / "checkpoint-12").items():
        assert line[f"eval/{task}/rows"] == rows
        assert line[f"eval/{task}/exact_match"] == exact
        assert line[f"eval/{task}/loss"] * tokens[task] == pytest.approx(loss, rel=1e-4)
    assert line["eval/text_claims/exact_match"] > 0


def _prepared(run: Run, split: str) -> Any:
    """Axolotl's tokenised dataset of a split: the one with that many rows."""
    from datasets import load_from_disk

    count = len(read_rows(run.split(split)))
    folders = [path.parent for path in (run.root / "prepared").rglob("dataset_info.json")]
    return next(d for f in folders if len(d := load_from_disk(str(f))) == count)


def _task_of(run: Run, split: str) -> dict[tuple[int, ...], str]:
    """The task of each tokenised row, found the slow way: by rendering every row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    return {
        tuple(tokenizer.apply_chat_template(row["messages"], return_dict=False)): row["task"]
        for row in read_rows(run.split(split))
    }


def _answer_tokens(run: Run) -> dict[str, int]:
    """Supervised tokens of the evaluated rows by task, from what Axolotl prepared."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    chosen = json.loads(run.evaluation_rows.read_text())
    supervised = {
        tuple(row["input_ids"]): sum(label != -100 for label in row["labels"])
        for row in _prepared(run, "validation")
    }
    counts = dict.fromkeys(TASKS, 0)
    for row in read_rows(run.split("validation")):
        if row["id"] in chosen[row["task"]]:
            tokens = tokenizer.apply_chat_template(row["messages"], return_dict=False)
            counts[row["task"]] += supervised[tuple(tokens)]
    return counts


def test_tokens_by_task_add_up_to_axolotl_s_own_count(run: Run) -> None:
    """Axolotl counts all supervised tokens; ours are those, divided by task, none unknown."""
    found = [line for line in lines(run.balance_log) if line["step"] <= 12]
    assert [line["step"] for line in found] == [5, 10, 12]
    assert not any("unknown" in key for line in found for key in line)
    ours = sum(line[f"train/{task}/tokens"] for line in found[:2] for task in TASKS)
    events = [e for e in lines(run.trainer_events) if e["event"] == "log" and e["step"] <= 12]
    assert max(e["values"].get("tokens/trainable", 0) for e in events) == ours
    assert sum(line[f"train/{task}/rows"] for line in found for task in TASKS) == 12 * 16


def test_losses_by_task_average_to_the_trainer_s_loss(run: Run) -> None:
    """The trainer's loss is a mean over steps of means over tokens, so only about that."""
    logs = [e["values"] for e in lines(run.trainer_events) if "loss" in e.get("values", {})]
    for line, log in zip(lines(run.balance_log)[:2], logs[:2], strict=True):
        tokens = [line[f"train/{task}/tokens"] for task in TASKS]
        losses = [line[f"train/{task}/loss"] for task in TASKS]
        mean = sum(t * x for t, x in zip(tokens, losses, strict=True)) / sum(tokens)
        assert mean == pytest.approx(log["loss"], rel=0.05)


def test_a_prepared_training_set_is_recognised_sample_by_sample(run: Run) -> None:
    """Axolotl's shuffled tokens get the task that rendering every row anew gives them."""
    from multitask.callbacks.rows import RowFile
    from multitask.runners.axolotl.align import align

    prepared = _prepared(run, "train")
    file = RowFile.read(run.split("train"))
    order = align(file, prepared, lambda row: _tokens_of(run, row), longest=512, shuffle_seed=42)
    slow = _task_of(run, "train")
    assert [file.names[file.tasks[i]] for i in order] == [
        slow[tuple(row["input_ids"])] for row in prepared
    ]


def _tokens_of(run: Run, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    from axolotl.prompt_strategies import load
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    config = DictDefault(yaml.safe_load(run.axolotl.read_text()))
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    out = load("chat_template", tokenizer, config, config.datasets[0]).tokenize_prompt(row)
    return list(out["input_ids"]), list(out["labels"])


def test_the_best_checkpoint_is_recorded_and_kept(resumed: Run) -> None:
    best = json.loads((resumed.model / "best.json").read_text())
    found = {line["step"]: line for line in lines(resumed.evaluation_log)}
    scores = {step: line["eval/score"] for step, line in found.items() if "eval/score" in line}
    assert set(scores) == {6, 12, 16}
    assert best["score"] == max(scores.values()) == scores[best["step"]]
    assert (resumed.model / best["checkpoint"] / "trainer_state.json").is_file()
    state = json.loads((resumed.model / "checkpoint-16/trainer_state.json").read_text())
    assert state["best_global_step"] == best["step"]
    assert Path(state["best_model_checkpoint"]).name == best["checkpoint"]


def test_a_resumed_training_does_not_evaluate_its_first_step_again(resumed: Run) -> None:
    assert [line["step"] for line in lines(resumed.evaluation_log)] == [0, 6, 12, 16]


def _wandb_records(folder: Path) -> list[Any]:
    """The records of an offline wandb run.

    The file has LevelDB's log format after a header of 7 bytes: blocks of 32 KiB, records with
    checksum (4 bytes), length (2) and kind (1: whole; 2, 3, 4: first, middle, last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    data, place, parts, records = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def _history(records: list[Any]) -> set[str]:
    return {
        ".".join(item.nested_key) or item.key
        for record in records
        if record.HasField("history")
        for item in record.history.item
    }


def test_wandb_offline_holds_config_curves_plan_and_table(run: Run) -> None:
    first = min((run.logs / "wandb").glob("offline-run-*"))
    records = _wandb_records(first)
    keys = _history(records)
    for task in TASKS:
        assert {f"eval/{task}/exact_match", f"eval/{task}/loss"} <= keys
        assert {f"train/{task}/loss", f"train/{task}/tokens"} <= keys
    assert any(key.startswith("evaluation") for key in keys)
    assert (first / "files" / "plan.md").read_text() == run.plan.read_text()
    (table,) = (first / "files").rglob("*.table.json")
    content = json.loads(table.read_text())
    assert {row[0] for row in content["data"]} >= {*TASKS, "macro", "worst"}
    updates = [u for r in records if r.HasField("config") for u in r.config.update]
    updates += [u for r in records if r.HasField("run") for u in r.run.config.update]
    config = {u.key: json.loads(u.value_json) for u in updates if u.key}
    assert config["spec"]["tasks"] == list(TASKS)
    assert config["max_steps"] == 12


def test_a_resumed_training_goes_on_with_its_wandb_run(resumed: Run) -> None:
    runs = sorted((resumed.logs / "wandb").glob("offline-run-*"))
    identity = (resumed.logs / "wandb-id").read_text().strip()
    assert len(runs) == 2
    assert {path.name.rpartition("-")[2] for path in runs} == {identity}


def test_no_secret_is_in_anything_that_was_written(resumed: Run) -> None:
    looked = 0
    for path in resumed.root.parent.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            assert _HF.encode() not in data, path
            assert _WANDB.encode() not in data, path
            looked += 1
    assert looked > 50


def test_tensorboard_has_the_curves(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert list((run.logs / "tensorboard").glob("events.out.tfevents.*"))
    accumulator = EventAccumulator(str(run.logs / "tensorboard"))
    accumulator.Reload()
    assert "eval/banking77/exact_match" in accumulator.Tags()["scalars"]
    assert "train/banking77/loss" in accumulator.Tags()["scalars"]


def test_mlflow_has_the_curves_in_one_run_through_all_restarts(
    resumed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient((resumed.logs / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("toys")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (resumed.logs / "mlflow-id").read_text().strip()
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "eval_banking77/loss")]
    assert sorted(set(steps)) == [0, 6, 12, 16]


def test_trackio_has_the_curves_in_the_project_that_was_asked_for(run: Run) -> None:
    (database,) = (run.logs / "trackio").glob("*.db")
    assert database.stem == "toys"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert {name for name, _ in rows} == {"multitask"}
    assert any("banking77/loss" in str(metrics) for _, metrics in rows)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two processes, FSDP2, LoRA, packed rows, weighted losses, uneven batches to evaluate."""
    run = build(
        tmp_path_factory.mktemp("sharded"),
        method="lora",
        checkpoint={"save_steps": 4, "keep": 2},
        balance={"loss_weights": {"commonsense_qa": 3.0}, "schedule": "lagging"},
        axolotl={"max_steps": 8, "logging_steps": 4},
    )
    config = yaml.safe_load(run.axolotl.read_text())
    del config["group_by_length"]
    config |= {
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "sample_packing": True,
        "eval_sample_packing": False,
        "pad_to_sequence_len": True,
        "fsdp_version": 2,
        "fsdp_config": {
            "offload_params": False,
            "cpu_ram_efficient_loading": False,
            "reshard_after_forward": True,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
            "state_dict_type": "SHARDED_STATE_DICT",
        },
    }
    run.axolotl.write_text(yaml.safe_dump(config))
    start(run, processes=2)
    return run


def test_sharded_processes_find_what_one_process_finds(run: Run, sharded: Run) -> None:
    """The same weights before the first step, on rows cut into other batches."""
    alone, together = lines(run.evaluation_log)[0], lines(sharded.evaluation_log)[0]
    chosen = [json.loads(r.evaluation_rows.read_text()) for r in (run, sharded)]
    assert chosen[0] == chosen[1]
    for key, value in alone.items():
        if key not in ("eval/seconds", "eval/share"):
            assert together[key] == pytest.approx(value, rel=1e-6), key


def test_sharded_processes_count_each_token_of_packed_rows_once(sharded: Run) -> None:
    found = lines(sharded.balance_log)
    assert not any("unknown" in key for line in found for key in line)
    ours = sum(line[f"train/{task}/tokens"] for line in found for task in TASKS)
    logs = [e["values"] for e in lines(sharded.trainer_events) if e["event"] == "log"]
    assert ours == max(values.get("tokens/trainable", 0) for values in logs) > 0


def test_the_schedule_moves_weights_in_a_training(sharded: Run) -> None:
    """Weights of the second half follow the first half's evaluation."""
    from multitask.callbacks.balance import lagging_weights
    from multitask.training_spec import BalanceSpec

    start_line, middle = lines(sharded.evaluation_log)[:2]
    first, now = (
        {task: line[f"eval/{task}/loss"] for task in TASKS} for line in (start_line, middle)
    )
    factors = lagging_weights(now, first, BalanceSpec(schedule="lagging"))
    before, after = lines(sharded.balance_log)
    for task in TASKS:
        base = 3.0 if task == "commonsense_qa" else 1.0
        assert before[f"train/{task}/weight"] == base
        assert after[f"train/{task}/weight"] == pytest.approx(base * factors[task])
