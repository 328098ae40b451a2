"""Reading what users write and disks damage: one clear error, whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.errors import LONGEST_ECHO, InputError, MultitaskError, naming, shown
from multitask.files import (
    file_name,
    parse_yaml,
    read_json,
    read_mapping,
    read_parquet,
    read_text,
    understood,
)

_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "3: not valid YAML: the key 'a' is there twice"),
        ("x: {b: 1, b: 2}", "the key 'b' is there twice"),
        ("a: " + "[" * 500 + "]" * 500, "nested more than"),
        (_LAUGHS, "aliases counted as often as they are used"),
        ("a: &a [*a]", "holds itself"),
        ("a: 0x" + "f" * 4300, "a number of 4,302 characters"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: !!int x", "no value of that kind"),
        ("a: !!timestamp x", "1: not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ('a: "\\0"', "null character"),
        ("? [a]\n: b", "1: not valid YAML"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"spec\.yaml") as error:
        parse_yaml(text, "spec.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["a: 2024-02-30", "a: 2024-02-28", "a: 2024-02-28 10:00:00"])
def test_dates_stay_text(text: str) -> None:
    assert parse_yaml(text, "x") == {"a": text[3:]}


@pytest.mark.parametrize(
    "content", [{"a": [1, 2.5, None, True, "x"], "b": {"c": "1e-4"}}, [], "x", None]
)
def test_other_yaml_is_read_as_yaml_reads_it(content: Any) -> None:
    assert parse_yaml(yaml.safe_dump(content), "x") == yaml.safe_load(yaml.safe_dump(content))


def test_merge_keys_still_work() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "x")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_damaged_json_names_the_file_and_what_to_do(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"results\.json") as error:
        read_json(path)
    assert "multitask evaluate" in str(error.value)


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    names = ["loop", "null", "folder", "missing", "x" * 300, "a\0b", "folder/../missing/x"]
    for name in names:
        with pytest.raises(InputError):
            read_text(tmp_path / name)


def test_torn_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match="evaluate again"):
        read_parquet(tmp_path / "predictions.parquet")


def test_a_mapping_has_keys_that_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("1: 2")
    with pytest.raises(InputError, match="the key 1 is no text"):
        read_mapping(tmp_path / "x.yaml")


def test_a_missing_key_of_a_file_names_the_file() -> None:
    said = pytest.raises(InputError, match=r"manifest\.json.*KeyError: 'tasks'")
    with said, understood(Path("manifest.json")):
        json.loads("{}")["tasks"]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../x", "-rf", ".x", "a\nb", "a\0", "x" * 101]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        file_name(name)


@pytest.mark.parametrize("name", ["first", "run 2", "lora-r16_v1.2", "überblick"])
def test_ordinary_names_are_taken(name: str) -> None:
    assert file_name(name) == name


def test_values_are_repeated_up_to_a_length() -> None:
    assert len(shown("x" * 10_000)) < LONGEST_ECHO + 30
    assert len(str(InputError(f"no such key '{'x' * 10_000}'"))) < LONGEST_ECHO + 60
    assert len(str(InputError("word " * 10_000))) < 3000


def test_messages_hold_no_control_characters() -> None:
    assert "\x1b" not in str(InputError("\x1b[31mred\u202e"))


def test_a_key_gets_the_file_of_its_spec() -> None:
    said = pytest.raises(MultitaskError, match=r"^my\.yaml: key 'cluster': unknown")
    with said, naming("my.yaml"):
        raise InputError("unknown", where="key 'cluster'")
