"""The card: metadata that validates, every score, and a program that runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.errors import InputError
from multitask.hub.card import prompt_format
from multitask.run import Run
from multitask.scrub import scrub
from tests.hub.conftest import Push
from tests.hub_upload_server import TOKEN, Repo, UploadHub

torch = pytest.importorskip("torch")


def _card(hub: UploadHub) -> str:
    return hub.repos["alice/toy"].files["README.md"].decode()


def _metadata(text: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return content


def test_the_index_has_every_metric_with_interval_and_split(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    push_to(run)
    (index,) = _metadata(_card(hub))["model-index"]
    found = {
        (result["task"]["name"], metric["type"], metric.get("config")): (
            metric["value"],
            *metric["args"]["confidence_interval"],
            metric["args"]["rows"],
            result["dataset"]["split"],
        )
        for result in index["results"]
        for metric in result["metrics"]
    }
    results = json.loads((run.evaluations / "trained" / "results.json").read_text())
    expected = {
        (name, key, config): (m["value"], m["low"], m["high"], part["n"], "test")
        for name, task in results["tasks"].items()
        for config, part in ((None, task), ("generated", task["generated"]))
        for key, m in part["metrics"].items()
    }
    assert found == expected
    assert len(found) > 30


def test_the_metadata_survives_a_round_trip_through_the_hubs_own_classes(
    adapter_run: Run, hub: UploadHub, push_to: Push
) -> None:
    from huggingface_hub import ModelCard

    push_to(adapter_run, base_model="owner/base", license="apache-2.0")
    card = ModelCard(_card(hub))
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict() == _metadata(_card(hub))
    data = card.data
    assert data["base_model"] == "owner/base"
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "peft"
    assert {"multitask", "banking77", "multiple-choice"} <= set(data["tags"])


def test_datasets_of_the_hub_are_named_with_their_revision(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    manifest = json.loads(run.manifest.read_text())
    source = manifest["tasks"]["banking77"]["source"]
    source |= {"kind": "hub", "location": "legacy-datasets/banking77", "revision": "f5" * 20}
    run.manifest.write_text(json.dumps(manifest))
    push_to(run)
    data = _metadata(_card(hub))
    assert data["datasets"] == ["legacy-datasets/banking77"]
    (found,) = [r for r in data["model-index"][0]["results"] if r["task"]["name"] == "banking77"]
    assert found["dataset"]["type"] == "legacy-datasets/banking77"
    assert found["dataset"]["revision"] == "f5" * 20


def test_the_license_is_that_of_the_bases_card(run: Run, hub: UploadHub, push_to: Push) -> None:
    (run.root / "base" / "README.md").write_text("---\nlicense: gemma\n---\n")
    push_to(run)
    assert _metadata(_card(hub))["license"] == "gemma"


def test_an_unknown_license_is_said(run: Run, hub: UploadHub, push_to: Push) -> None:
    done = push_to(run)
    assert _metadata(_card(hub))["license"] == "unknown"
    assert any("license is not known" in note for note in done.notes)


def test_a_license_that_the_hub_does_not_know_is_refused(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    with pytest.raises(InputError, match=r"did you mean 'apache-2\.0'"):
        push_to(run, license="apache2.0")
    assert not hub.requests


def test_scores_of_other_weights_are_left_out(run: Run, hub: UploadHub, push_to: Push) -> None:
    from safetensors.torch import load_file, save_file

    path = run.model / "model.safetensors"
    save_file({k: v * 0.5 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    done = push_to(run)
    assert "model-index" not in _metadata(_card(hub))
    assert "calibration.json" not in hub.repos["alice/toy"].files
    assert any("other weights" in note for note in done.notes)
    assert "has not been evaluated" in _card(hub)


def test_the_card_has_plan_limits_and_configuration(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    push_to(run)
    text = _card(hub)
    assert "296 training rows in one pass" in text
    assert "Trained on a small sample" in text
    assert "wandb_project: claims" in text
    assert "not shown to be better than TF-IDF" in text


def test_scrubbing_keeps_json_json(tmp_path: Path) -> None:
    content = {"model": str(tmp_path / "model"), "api_key": "x", "url": "https://a.b/c/d"}
    scrubbed = json.loads(scrub(json.dumps(content), tmp_path))
    assert scrubbed == {"model": "model", "api_key": "x", "url": "https://a.b/c/d"}


def _run_snippet(text: str, hub: UploadHub, folder: Path) -> dict[str, tuple[str, float]]:
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    env = dict(os.environ) | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    env |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    lines = [
        re.fullmatch(r"(\S+) (.+) ([\d.]+) (?:sure|ask a person)", line)
        for line in done.stdout.splitlines()
    ]
    return {m[1]: (m[2], float(m[3])) for m in lines if m}


def _expected(run: Run, model: str) -> dict[str, tuple[str, float]]:
    """The same questions, answered by the package's own scorer and calibration."""
    import numpy as np

    from multitask.evaluation.calibration import load
    from multitask.scoring.model import load_model
    from multitask.scoring.readers import plain_score
    from multitask.tasks import task_from_record

    manifest = json.loads(run.manifest.read_text())["tasks"]
    tasks = [task_from_record(name, record) for name, record in manifest.items()]
    path = run.model / "calibration.json"
    calibrations = load(path) if path.is_file() else {}
    loaded, found = load_model(model), {}
    for task in tasks:
        shown = prompt_format(task)
        encoded = loaded.encoder().encode(shown["prompt"], shown["responses"])
        scores = np.array(
            [[plain_score(loaded.model, encoded, i) for i in range(len(shown["labels"]))]]
        )
        if task.name in calibrations:
            scores = calibrations[task.name].calibrator.apply(scores)
        else:
            scores = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        best = int(scores[0].argmax())
        found[task.name] = shown["labels"][best], float(np.exp(scores[0, best]))
    return found


def _assert_same(
    found: dict[str, tuple[str, float]], expected: dict[str, tuple[str, float]]
) -> None:
    assert found.keys() == expected.keys()
    for task, (label, probability) in expected.items():
        assert found[task][0] == label
        assert found[task][1] == pytest.approx(probability, abs=2e-4)


def test_the_cards_program_answers_as_the_model_was_evaluated(
    run: Run, hub: UploadHub, push_to: Push, tmp_path: Path
) -> None:
    push_to(run)
    found = _run_snippet(_card(hub), hub, tmp_path)
    _assert_same(found, _expected(run, str(run.model)))


def test_the_program_of_an_adapters_card_loads_its_base(
    adapter_run: Run, hub: UploadHub, push_to: Push, tmp_path: Path
) -> None:
    base = {p.name: p.read_bytes() for p in (adapter_run.root / "base").iterdir()}
    hub.repos["owner/base"] = Repo(files=base)
    push_to(adapter_run, base_model="owner/base")
    (adapter_run.model / "calibration.json").unlink(missing_ok=True)
    shutil.rmtree(adapter_run.evaluations)
    found = _run_snippet(_card(hub), hub, tmp_path)
    _assert_same(found, _expected(adapter_run, str(adapter_run.model)))
