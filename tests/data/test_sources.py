"""Datasets from the Hub, over a small server on loopback that speaks its protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask.data.sources import SAMPLE_DIR, split_files
from multitask.spec import shipped_task
from tests.hub_server import COMMIT, HubServer, hub_server

CSV = "text,label\n" + "".join(f"a text number {i * 13},{'ab'[i % 2]}\n" for i in range(30))
TASK = {"name": "t", "kind": "classification", "source": {"hub": "me/mine"}}

WriteSpec = Callable[..., Path]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server(HubServer({"me/mine": {"train.csv": CSV.encode(), "README.md": b"#"}})) as hub:
        yield hub


def _prepare(
    spec: Path, hub: HubServer | str, tmp_path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, since the endpoint is read at import."""
    url = hub if isinstance(hub, str) else hub.url
    env = dict(os.environ) | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
    env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"} | environment
    return subprocess.run(
        [sys.executable, "-m", "multitask", "prepare", str(spec), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=env,
    )


def _manifest(tmp_path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((tmp_path / "run/data/manifest.json").read_text())
    return content


def _assert_refused(done: subprocess.CompletedProcess[str], tmp_path: Path, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_dataset_is_read_at_its_commit(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    assert done.returncode == 0, done.stderr
    source = _manifest(tmp_path)["tasks"]["t"]["source"]  # type: ignore[index]
    assert (source["kind"], source["location"], source["revision"]) == ("hub", "me/mine", COMMIT)
    assert source["files"]["train"][0]["bytes"] == len(CSV)
    assert any(f"/resolve/{COMMIT}/train.csv" in request for request in hub.requests)


def test_the_second_time_needs_no_connection(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    spec = write_spec(tasks=[TASK], sample=None)
    assert _prepare(spec, hub, tmp_path).returncode == 0
    before = len(hub.requests)
    offline = _prepare(spec, hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(hub.requests) == before


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")])
def test_a_gated_dataset_says_where_to_consent(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec, status: int, code: str
) -> None:
    hub.status["me/mine"] = (status, code)
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    _assert_refused(
        done,
        tmp_path,
        "refuses access to me/mine",
        "visit https://huggingface.co/datasets/me/mine",
        "hf auth login",
    )


def test_a_missing_dataset(hub: HubServer, tmp_path: Path, write_spec: WriteSpec) -> None:
    task = TASK | {"source": {"hub": "me/other"}}
    done = _prepare(write_spec(tasks=[task], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "me/other")


def test_a_missing_revision(hub: HubServer, tmp_path: Path, write_spec: WriteSpec) -> None:
    task = TASK | {"source": {"hub": "me/mine", "revision": "missing"}}
    done = _prepare(write_spec(tasks=[task], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "no revision 'missing'")


def test_a_repository_without_data_files_lists_what_it_has(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.datasets["me/mine"] = {"loader.py": b"import os", "README.md": b"#"}
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "no file for the split 'train' among README.md, loader.py")


def test_a_passing_fault_is_tried_again(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.fail_first = 1
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_lasting_fault_is_told(hub: HubServer, tmp_path: Path, write_spec: WriteSpec) -> None:
    hub.status["me/mine"] = (500, "")
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "the Hub answers 500 again and again", "try again later")


def test_a_cut_download_is_tried_again(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.truncate = 1
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert _manifest(tmp_path)["tasks"]["t"]["read"] == {"train": 30}  # type: ignore[index]


def test_downloads_that_are_always_cut_leave_nothing(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.truncate = 10_000
    done = _prepare(write_spec(tasks=[TASK], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "me/mine", "try again")


def test_no_connection_says_what_to_do(tmp_path: Path, write_spec: WriteSpec) -> None:
    spec = write_spec(tasks=["banking77"], sample=None)
    done = _prepare(spec, "http://127.0.0.1:9", tmp_path)
    _assert_refused(done, tmp_path, "the Hub cannot be reached", "--data-dir DIR", "--sample")


def _banking_parquet(rows: dict[str, int]) -> dict[str, bytes]:
    from datasets import ClassLabel, Dataset, Features, Value

    names = shipped_task("banking77").labels
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    files = {}
    for split, count in rows.items():
        data = {
            "text": [f"{split} message {i} on topic {i * 31}" for i in range(count)],
            "label": [i % 77 for i in range(count)],
        }
        table = Dataset.from_dict(data, features=features).data.table
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), sink)
        files[f"data/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
    return files


_REAL = {"train": 10_003, "test": 3_080}


def _prepare_banking(hub: HubServer, tmp_path: Path, write_spec: WriteSpec) -> dict[str, object]:
    spec = write_spec(tasks=["banking77"], sample=None, leakage={"near_duplicates": False})
    done = _prepare(spec, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    task: dict[str, object] = _manifest(tmp_path)["tasks"]["banking77"]  # type: ignore[index]
    return task


def test_banking77_is_taken_from_its_pinned_copy(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.datasets["legacy-datasets/banking77"] = _banking_parquet(_REAL)
    task = _prepare_banking(hub, tmp_path, write_spec)
    assert task["source"]["location"] == "legacy-datasets/banking77"  # type: ignore[index]
    assert task["read"] == _REAL
    assert any("f54121560de48f2852f90be299010d1d6dc612ec" in r for r in hub.requests)


def test_a_copy_with_other_rows_is_passed_over_and_said_so(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    hub.datasets["legacy-datasets/banking77"] = _banking_parquet({"train": 9_993, "test": 3_076})
    hub.datasets["PolyAI/banking77"] = _banking_parquet(_REAL)
    task = _prepare_banking(hub, tmp_path, write_spec)
    source = task["source"]
    assert source["location"] == "PolyAI/banking77"  # type: ignore[index]
    (tried,) = source["tried"]  # type: ignore[index]
    assert "9,993 train rows where the dataset has 10,003" in tried["reason"]
    assert any("was not taken" in warning for warning in task["warnings"])  # type: ignore[attr-defined]


def test_commonsense_qa_comes_from_the_hub_as_well(
    hub: HubServer, tmp_path: Path, write_spec: WriteSpec
) -> None:
    """The sample is too small for the pinned row counts, and that is noticed."""
    hub.datasets["tau/commonsense_qa"] = {
        f"{split}.jsonl": (SAMPLE_DIR / "commonsense_qa" / f"{split}.jsonl").read_bytes()
        for split in ("train", "validation")
    }
    done = _prepare(write_spec(tasks=["commonsense_qa"], sample=None), hub, tmp_path)
    _assert_refused(done, tmp_path, "70 train rows where the dataset has 9,741")


@pytest.mark.parametrize(
    ("names", "split", "config", "expected"),
    [
        (["train.csv", "test.csv"], "train", None, ["train.csv"]),
        (["data.csv"], "train", None, ["data.csv"]),
        (["data.csv"], "test", None, []),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "train",
            None,
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (["en/train/0.parquet", "de/train/0.parquet"], "train", "de", ["de/train/0.parquet"]),
        (["train.csv", "train.parquet"], "train", None, ["train.parquet"]),
        (["training_notes.csv", "restrain.csv", "train.csv"], "train", None, ["train.csv"]),
        (["contest.csv", "train.csv"], "test", None, []),
        (
            ["train_test_split/test.csv", "train_test_split/train.csv"],
            "train",
            None,
            ["train_test_split/train.csv"],
        ),
        (
            ["train_test_split/test.csv", "train_test_split/train.csv"],
            "test",
            None,
            ["train_test_split/test.csv"],
        ),
        (["train_test_split/x.csv"], "test", None, []),
        (["train.csv", "dev.csv"], "validation", None, ["dev.csv"]),
    ],
)
def test_the_files_of_a_split(
    names: list[str], split: str, config: str | None, expected: list[str]
) -> None:
    assert split_files(names, split, config) == expected
