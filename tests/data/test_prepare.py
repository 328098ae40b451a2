"""Prepared data: the contract's rows, the manifest, and the same bytes every time."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.define import define_task
from multitask.data.fingerprint import marks, normalised, without_punctuation
from multitask.data.leakage import summary
from multitask.data.prepare import Prepared, prepare, prepare_tasks
from multitask.data.readers import read_rows
from multitask.data.render import gold
from multitask.errors import InputError
from multitask.spec import Spec, load_spec
from multitask.task_spec import LeakageSpec, TaskSpec, TemplatesSpec
from multitask.tasks import task_from_record, task_record


def test_rows_have_the_keys_of_the_contract(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    for split in ("train", "validation", "test"):
        rows = read_rows(run.split(split))
        assert rows
        for row in rows:
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
            assert {"task", "id", "template"} <= row.keys()
            assert ("label" in row) != ("answer" in row)
            assert gold(row) in row["messages"][1]["content"]


def test_the_prompt_holds_the_text_and_not_the_answer(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    for row in read_rows(run.split("train")):
        prompt = row["messages"][0]["content"]
        assert row["text"].strip() in prompt
        if row["task"] == "banking77":
            assert row["label"] not in prompt


def test_every_phrasing_is_used(sample_spec: Spec, tmp_path: Path) -> None:
    rows = read_rows(prepare(sample_spec, tmp_path / "run").split("train"))
    used = Counter((row["task"], row["template"]) for row in rows)
    assert len(used) == 12
    assert min(used.values()) >= 5


def test_no_row_is_in_two_splits(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    keys = [
        (row["task"], row["id"])
        for split in ("train", "validation", "test")
        for row in read_rows(run.split(split))
    ]
    assert len(set(keys)) == len(keys)


def test_the_manifest_counts_and_hashes_what_was_written(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    for split in ("train", "validation", "test"):
        record = manifest["files"][f"{split}.jsonl"]
        assert record["rows"] == len(read_rows(run.split(split)))
        assert record["sha256"] == hashlib.sha256(run.split(split).read_bytes()).hexdigest()
        counted = sum(t["counts"][split]["rows"] for t in manifest["tasks"].values())
        assert counted == record["rows"]
    source = manifest["tasks"]["banking77"]["source"]
    assert source["kind"] == "sample"
    assert set(source["files"]) == {"train", "test", "categories"}


def test_the_same_spec_gives_the_same_bytes(sample_spec: Spec, tmp_path: Path) -> None:
    one, two = prepare(sample_spec, tmp_path / "one"), prepare(sample_spec, tmp_path / "two")
    files = sorted(p.relative_to(one.root) for p in one.root.rglob("*") if p.is_file())
    assert len(files) == 7
    for name in files:
        assert (one.root / name).read_bytes() == (two.root / name).read_bytes(), name


def test_another_seed_gives_another_split(sample_spec: Spec, tmp_path: Path) -> None:
    one = prepare(sample_spec, tmp_path / "one")
    two = prepare(sample_spec.model_copy(update={"seed": 7}), tmp_path / "two")
    ids = [{row["id"] for row in read_rows(run.split("train"))} for run in (one, two)]
    assert ids[0] != ids[1]


def test_the_plan_shows_every_task(sample_spec: Spec, tmp_path: Path) -> None:
    plan = prepare(sample_spec, tmp_path / "run").plan.read_text()
    assert all(task in plan for task in sample_spec.task_names)
    assert "Tokens are not counted" in plan


def test_the_plan_counts_tokens_and_supervised_tokens(
    sample_spec: Spec, tmp_path: Path, toy: Path
) -> None:
    from transformers import AutoTokenizer

    spec = sample_spec.model_copy(update={"model": str(toy)})
    run = prepare(spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    tokenizer = AutoTokenizer.from_pretrained(toy)
    rows = [row for row in read_rows(run.split("train")) if row["task"] == "banking77"]
    whole = [tokenizer.apply_chat_template(r["messages"], tokenize=False) for r in rows]
    total = sum(len(ids) for ids in tokenizer(whole)["input_ids"])
    answers = sum(len(tokenizer(r["messages"][1]["content"])["input_ids"]) + 1 for r in rows)
    tokens = manifest["tasks"]["banking77"]["tokens"]
    assert (tokens["total"], tokens["supervised"]) == (total, answers)


def test_alpaca_rows_have_the_three_keys(sample_spec: Spec, tmp_path: Path) -> None:
    spec = sample_spec.model_copy(
        update={"templates": sample_spec.templates.model_copy(update={"format": "alpaca"})}
    )
    for row in read_rows(prepare(spec, tmp_path / "run").split("train")):
        assert row["instruction"] == row["messages"][0]["content"]
        assert row["output"] == row["messages"][1]["content"]
        assert row["input"] == ""


def test_options_answered_by_text(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(write_spec(tasks=["commonsense_qa"], templates={"answers": "text"}))
    for row in read_rows(prepare(spec, tmp_path / "run").split("train")):
        assert row["messages"][1]["content"] == row["choices"][ord(row["answer"]) - ord("A")]
        assert not re.search("its letter|Which letter|letter only", row["messages"][0]["content"])


def test_shuffled_options_move_the_gold_evenly_and_keep_official_tests(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    plain = load_spec(write_spec(tasks=["commonsense_qa"]))
    moved = load_spec(write_spec(tasks=["commonsense_qa"], templates={"shuffle_options": True}))
    runs = prepare(plain, tmp_path / "plain"), prepare(moved, tmp_path / "moved")
    before, after = ({row["id"]: row for row in read_rows(run.split("train"))} for run in runs)
    assert before.keys() == after.keys()
    for row_id, row in after.items():
        gold_text = row["choices"][ord(row["answer"]) - ord("A")]
        was = before[row_id]
        assert gold_text == was["choices"][ord(was["answer"]) - ord("A")]
        assert sorted(row["choices"]) == sorted(was["choices"])
    positions = Counter(row["answer"] for row in after.values())
    assert max(positions.values()) - min(positions.values()) <= 1
    assert runs[0].split("test").read_bytes() == runs[1].split("test").read_bytes()


def test_listed_labels_are_in_the_prompt(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(write_spec(tasks=["banking77"], templates={"list_labels": True}))
    run = prepare(spec, tmp_path / "run")
    labels = json.loads(run.manifest.read_text())["tasks"]["banking77"]["labels"]
    for row in read_rows(run.split("train")):
        assert all(label in row["messages"][0]["content"] for label in labels)


def test_real_data_is_split_and_free_of_leaks(real_data: Path, tmp_path: Path) -> None:
    """7 normalised and 11 punctuation-free overlaps with the test rows leave the training."""
    spec = Spec(
        model="a/b", tasks=("banking77", "commonsense_qa"), data_dir=str(real_data), cluster="cpu"
    )
    run = prepare(spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    banking = manifest["tasks"]["banking77"]
    (train,) = banking["source"]["files"]["train"]
    assert train["sha256"].startswith("b06e26ac675513959a63135f11b94ea7")
    removed = manifest["leakage"]["removed"]["banking77/train"]
    assert removed["normalised"] == 7
    assert removed["normalised"] + removed["without punctuation"] == 11
    # Why is there a $1, or a \u20ac1, charge on my statement?
    assert manifest["leakage"]["reported"]["banking77/train"] == {"different marks": 1}
    assert banking["counts"]["test"]["rows"] == 3080
    left = banking["counts"]["train"]["rows"] + banking["counts"]["validation"]["rows"]
    assert left == 10_003 - sum(removed.values())
    assert len(manifest["leakage"]["rows"]) == sum(removed.values())

    texts = {
        split: [r["text"] for r in read_rows(run.split(split)) if r["task"] == "banking77"]
        for split in ("train", "validation", "test")
    }
    for form in (str, normalised, lambda text: (without_punctuation(text), marks(text))):
        forms = {split: {form(text) for text in found} for split, found in texts.items()}
        assert forms["train"] & forms["test"] == set()
        assert forms["validation"] & forms["test"] == set()
        assert forms["train"] & forms["validation"] == set()


def test_a_leak_between_tasks_is_removed(tmp_path: Path, write_spec: Callable[..., Path]) -> None:
    """The same text is a training row of one task and a test row of another."""
    shared = "Where is the card that I ordered last week?"
    lines = [
        f"an ordinary sentence number {i} about topic {i * 7},{'ab'[i % 2]}" for i in range(40)
    ]
    for name, extra in (("one.csv", [f"{shared},a"]), ("two.csv", []), ("test.csv", [])):
        body = lines + extra if name == "one.csv" else [f"{name} {line}" for line in lines]
        (tmp_path / name).write_text("\n".join(["text,label", *body]) + "\n")
    (tmp_path / "test.csv").write_text(f"text,label\n{shared.upper()},b\n")
    tasks = [
        {"name": "one", "kind": "classification", "source": {"path": "one.csv"}},
        {"name": "two", "kind": "classification",
         "source": {"train": "two.csv", "test": "test.csv"}},
    ]  # fmt: skip
    spec = load_spec(write_spec(tasks=tasks, sample=None, leakage={"near_duplicates": False}))
    run = prepare(spec, tmp_path / "run")
    (leak,) = json.loads(run.manifest.read_text())["leakage"]["rows"]
    assert (leak["task"], leak["level"]) == ("one", "normalised")
    assert leak["same_as"] == "two/test/test-1"
    assert all(row["text"] != shared for row in read_rows(run.split("train")))


def test_a_test_file_that_is_the_training_file_is_refused(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    (tmp_path / "x.csv").write_text("text,label\none thing,a\nanother thing,b\n")
    task = {"name": "t", "kind": "classification", "source": {"train": "x.csv", "test": "x.csv"}}
    with pytest.raises(InputError, match="no training row is left"):
        prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")


def test_a_skewed_mixture_is_loaded_by_datasets(
    tmp_path: Path, write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that first appears after 10 MB would end the loading; so it appears at once."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset

    body = [f"{i} {'words ' * 60}{i},{'ab'[i % 2]}" for i in range(30_000)]
    (tmp_path / "big.csv").write_text("\n".join(["text,label", *body]) + "\n")
    small = {"question": "q", "choices": ["x", "y"], "answer": "A"}
    (tmp_path / "small.jsonl").write_text(
        "".join(json.dumps(small | {"question": f"question {i}?"}) + "\n" for i in range(10))
    )
    tasks = [
        {"name": "big", "kind": "classification", "source": {"path": "big.csv"}},
        {"name": "small", "kind": "multiple_choice", "source": {"path": "small.jsonl"}},
    ]
    spec = load_spec(write_spec(tasks=tasks, sample=None, leakage={"near_duplicates": False}))
    run = prepare(spec, tmp_path / "run")
    assert run.split("train").stat().st_size > 12_000_000
    loaded = load_dataset(
        "json", data_files=str(run.split("train")), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == json.loads(run.manifest.read_text())["files"]["train.jsonl"]["rows"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"positive_label": "spm"}, "did you mean 'spam'"),
        ({"positive_label": "spam", "labels": ["ham", "spam", "scam"]}, "this task has 3 labels"),
        ({"positive_label": "spam", "kind": "generation"}, "the kind generation"),
    ],
)
def test_a_positive_label_is_one_of_two(task: dict[str, object], words: str) -> None:
    entry = TaskSpec.model_validate(
        {"name": "mail", "kind": "classification", "source": {"path": "x.csv"}} | task
    )
    labels = () if not entry.kind.closed else tuple(entry.labels or ("ham", "spam"))
    with pytest.raises(InputError, match="key 'positive_label'") as error:
        define_task(entry, labels, TemplatesSpec())
    assert words in str(error.value)


def test_a_positive_label_comes_back_from_the_manifest() -> None:
    entry = TaskSpec.model_validate(
        {"name": "mail", "kind": "classification", "source": {"path": "x.csv"}}
        | {"positive_label": "ham"}
    )
    task = define_task(entry, ("ham", "spam"), TemplatesSpec())
    assert task_from_record("mail", task_record(task)) == task


def _own(tmp_path: Path, write_spec: Callable[..., Path], **files: list[tuple[str, str]]) -> Spec:
    """A spec of one classification task with these rows."""
    for split, rows in files.items():
        with (tmp_path / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    source = {split: f"{split}.csv" for split in files}
    task = {"name": "t", "kind": "classification", "source": source}
    return load_spec(write_spec(tasks=[task], sample=None))


def test_rows_that_differ_in_meaning_are_kept_and_reported(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    """Letters alone would take these for the same: the whole class of the smiling rows is lost."""
    meals = [f"meal {letter}" for letter in "abcdefgh"]
    train = [(f"{meal} :)", "good") for meal in meals] + [(f"{meal}?", "bad") for meal in meals]
    test = [(f"{meal} :(", "bad") for meal in meals] + [("12 - 3", "bad")]
    train += [("12 + 3", "good"), ("1 + 23", "good"), ("1.23", "bad")]
    run = prepare(_own(tmp_path, write_spec, train=train, test=test), tmp_path / "run")
    leakage = json.loads(run.manifest.read_text())["leakage"]
    assert leakage["removed"] == {}
    kept = {row["text"] for s in ("train", "validation") for row in read_rows(run.split(s))}
    assert kept == {text for text, _ in train}
    found = [levels["different marks"] for levels in leakage["reported"].values()]
    assert sum(found) == len(train)
    assert "kept, but alike, in t/train" in run.plan.read_text()


@pytest.mark.parametrize(
    ("leakage", "removed", "reported"),
    [
        ({}, {"normalised": 1, "without punctuation": 1}, {"different marks": 1}),
        ({"remove": ["exact"]}, {}, {"different marks": 1}),
        ({"remove": ["different marks"]}, {"different marks": 1}, {}),
        ({"remove": [], "report": []}, {}, {}),
        (
            {"remove": ["normalised"], "report": ["without punctuation"]},
            {"normalised": 1},
            {"without punctuation": 1},
        ),
    ],
)
def test_levels_are_removed_reported_or_off_as_the_spec_says(
    tmp_path: Path,
    write_spec: Callable[..., Path],
    leakage: dict[str, list[str]],
    removed: dict[str, int],
    reported: dict[str, int],
) -> None:
    train = [
        ("My card", "a"),
        ("Lost it, help", "b"),
        ("1 + 23", "a"),
        ("Sunny", "a"),
        ("Rain", "b"),
    ]
    test = [("my  CARD", "a"), ("Lost it help!", "b"), ("12 + 3", "a")]
    spec = _own(tmp_path, write_spec, train=train, validation=[("Snow", "a")], test=test)
    spec = spec.model_copy(update={"leakage": LeakageSpec.model_validate(leakage)})
    found = json.loads(prepare(spec, tmp_path / "run").manifest.read_text())["leakage"]
    assert found["removed"].get("t/train", {}) == removed
    assert found["reported"].get("t/train", {}) == reported


def test_a_level_is_removed_or_reported_not_both(write_spec: Callable[..., Path]) -> None:
    both = {"remove": ["near"], "report": ["near"]}
    with pytest.raises(InputError, match="'near' is in `remove` and in `report`"):
        load_spec(write_spec(leakage=both))


def test_a_class_that_the_gate_would_empty_ends_it(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    train = [("one thing", "a"), ("another matter", "a"), ("Rain", "b"), ("Snow", "b")]
    spec = _own(tmp_path, write_spec, train=train, test=[("rain!", "b"), ("snow?", "b")])
    with pytest.raises(InputError, match="no training row of the class 'b' is left") as error:
        prepare(spec, tmp_path / "run")
    assert "2 without punctuation" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_validation_split_that_the_gate_would_empty_ends_it(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    rows = {"train": [("one", "a"), ("two", "b")], "validation": [("Rain", "b")]}
    spec = _own(tmp_path, write_spec, **rows, test=[("rain", "b")])
    with pytest.raises(InputError, match="no validation row is left"):
        prepare(spec, tmp_path / "run")


def test_rows_that_share_an_instruction_are_divided(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": f"Translate to pig latin: word{i}", "response": f"{i}way"} for i in range(60)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({**row, "prompt": f"{row['prompt']}0x"}) + "\n" for row in rows[:9])
    )
    for source, sizes in (
        ({"path": "x.jsonl"}, [48, 6, 6]),
        ({"train": "x.jsonl", "test": "test.jsonl"}, [48, 12, 9]),
    ):
        task = {"name": "g", "kind": "generation", "source": source}
        spec = load_spec(write_spec(tasks=[task], sample=None))
        run = prepare(spec, tmp_path / f"run-{sizes[-1]}")
        assert [len(read_rows(run.split(s))) for s in ("train", "validation", "test")] == sizes


def test_near_duplicates_take_no_whole_class_into_one_split(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    """Each of these is near the next, so all hang together; the first and the last are not."""
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    chain = [(" ".join(words[i : i + 40]), "ab"[i % 2]) for i in range(80)]
    other = [(" ".join(reversed(words[i : i + 9])), "ab"[i % 2]) for i in range(0, 120, 3)]
    run = prepare(_own(tmp_path, write_spec, train=chain + other), tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    chained = {text for text, _ in chain}
    counts = {
        split: sum(row["text"] in chained for row in read_rows(run.split(split)))
        for split in ("train", "validation", "test")
    }
    assert min(counts.values()) >= 3
    assert manifest["leakage"]["divided"]["t"] > 0
    assert "pairs of near-duplicates may be in different splits" in run.plan.read_text()


def test_a_task_without_test_rows_is_refused(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    rows = [("one thing", "a"), ("another matter", "b")]
    with pytest.raises(InputError, match="its 2 rows cannot be divided"):
        prepare(_own(tmp_path, write_spec, train=rows), tmp_path / "run")


_PIECES = ("card", "Card", "my", "top-up", "top up", "lost", ":)", ":(", "12", "?", "the bank")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(_PIECES), min_size=1, max_size=9), st.sampled_from("ab")
        ),
        min_size=30,
        max_size=60,
    ),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_the_same_rows_in_any_order_give_the_same_rows_everywhere(
    rows: list[tuple[list[str], str]], rng: random.Random, seed: int
) -> None:
    lines = [(" ".join(words), label) for words, label in rows]
    lines += [("anchor", "a"), ("buoy", "b")]
    moved = rng.sample(lines, len(lines))
    assert _outcome(lines, seed) == _outcome(moved, seed)


def _lines(prepared: Prepared, split: str) -> list[str]:
    """A split's lines without ids, which follow from the file; held-out rows keep its order."""
    lines = [re.sub(r'"id":"[^"]*"', "", line) for line in prepared.lines(split)]
    return lines if split == "train" else sorted(lines)


def _outcome(rows: list[tuple[str, str]], seed: int) -> object:
    """Every split, removal and phrasing of a task with these rows, by what the rows say."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        task = {"name": "t", "kind": "classification", "source": {"path": str(path)}}
        mixture = {"caps": {"t": 20}, "size": 50}
        content = {"model": "a/b", "tasks": [task], "seed": seed, "mixture": mixture}
        try:
            prepared = prepare_tasks(Spec.model_validate(content))
        except InputError as error:
            return re.sub(r"\(row .*|/tmp/\S+", "", str(error))
        lines = [_lines(prepared, split) for split in ("train", "validation", "test")]
        leaks = [
            Counter(
                (_said(rows, leak.id), leak.split, leak.level, _said(rows, leak.other_id))
                for leak in leaks
            )
            for leaks in (prepared.gate.removed, prepared.gate.reported)
        ]
        return lines, leaks


def _said(rows: list[tuple[str, str]], row_id: str) -> tuple[str, str]:
    return rows[int(row_id.rsplit("-", 1)[1]) - 1]


def test_real_rows_in_any_order_give_the_same_rows_everywhere(
    real_data: Path, tmp_path: Path
) -> None:
    outcomes = []
    for number in range(4):
        folder = tmp_path / f"{number}" / "banking77"
        folder.mkdir(parents=True)
        for name in ("train.csv", "test.csv"):
            with (real_data / "banking77" / name).open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if number:
                random.Random(number).shuffle(rows)
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *rows])
        spec = Spec(model="a/b", tasks=("banking77",), data_dir=str(folder.parent))
        prepared = prepare_tasks(spec)
        lines = {split: _lines(prepared, split) for split in ("train", "validation", "test")}
        outcomes.append((lines, summary(prepared.gate.removed)))
    assert all(outcome == outcomes[0] for outcome in outcomes[1:])
