"""Reading files that others write, or that a disk may have damaged: one error for whatever fails.

Every YAML file of a user's and every JSON file of a run's comes in here, so that each reader
needs to know nothing of encodings, torn files and hostile YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from multitask.errors import InputError

_MOST_BYTES = 64 * 2**20
_MOST_DEPTH = 50
_MOST_NODES = 200_000
_MOST_DIGITS = 20
_LONGEST_NAME = 100

_BUILD_AGAIN = "copy the run again, or build it again: `multitask build-config SPEC --out RUN`"
_EVALUATE_AGAIN = "evaluate again: `multitask evaluate RUN`"
_REMEDIES = {
    "results.json": _EVALUATE_AGAIN,
    "predictions.parquet": _EVALUATE_AGAIN,
    "interference.json": _EVALUATE_AGAIN,
    "calibration.json": _EVALUATE_AGAIN,
    "manifest.json": _BUILD_AGAIN,
    "train.jsonl": _BUILD_AGAIN,
    "validation.jsonl": _BUILD_AGAIN,
    "test.jsonl": _BUILD_AGAIN,
    "axolotl.yaml": _BUILD_AGAIN,
    "accelerate.yaml": _BUILD_AGAIN,
    "plan.md": _BUILD_AGAIN,
}


def remedy_for(path: str | Path) -> str | None:
    """What to do about a file of a run that is missing or damaged; None of other files."""
    path = Path(path)
    if path.parent.name == "logs":
        return "remove the line, or the file: reports then go without what it told"
    return _REMEDIES.get(path.name)


def read_bytes(path: Path, *, fix: str | None = None) -> bytes:
    """The content of an ordinary file.

    Raises:
        InputError: It is missing, no ordinary file, too large, or the disk does not give it.
    """
    fix = fix or remedy_for(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError("is no ordinary file", where=path, fix=fix)
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"is larger than {_MOST_BYTES >> 20} MiB", where=path, fix=fix)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix=fix) from None
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        raise InputError(f"cannot be read ({_reason(error)})", where=path, fix=fix) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_text(path: Path, *, fix: str | None = None) -> str:
    """The content of a text file; raises as `read_bytes`, and where it is not UTF-8."""
    data = read_bytes(path, fix=fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"not UTF-8 text (byte {error.start + 1})",
            where=f"{path}:{line}",
            fix=fix or remedy_for(path) or "save the file as UTF-8",
        ) from None


def read_json(path: Path, *, fix: str | None = None) -> dict[str, Any]:
    """A JSON object of a run's or a model's.

    Raises:
        InputError: The file cannot be read, is torn, or holds something else.
    """
    text = read_text(path, fix=fix)
    fix = fix or remedy_for(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = getattr(error, "lineno", None)
        raise InputError(
            f"not valid JSON, so the file is damaged ({error})",
            where=path if place is None else f"{path}:{place}",
            fix=fix,
        ) from None
    if not isinstance(content, dict):
        raise InputError("is no JSON object, so the file is damaged", where=path, fix=fix)
    return content


def read_parquet(path: Path, **options: Any) -> Any:
    """A Parquet file as an Arrow table.

    Args:
        path: The file.
        options: As of ``pyarrow.parquet.read_table``: columns, filters.

    Raises:
        InputError: It is missing, torn, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, **options)
    except FileNotFoundError:
        raise InputError("no such file", where=path, fix=remedy_for(path)) from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"not valid Parquet, so the file may be torn ({error})",
            where=path,
            fix=remedy_for(path) or "fetch or export it again",
        ) from None


@contextmanager
def understood(path: object, *, fix: str | None = None) -> Iterator[None]:
    """Turn what a damaged file leads to in the block into an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        text = f"{type(error).__name__}: {error}"
        raise InputError(
            f"does not have the form that multitask writes ({text})",
            where=path,
            fix=fix or (remedy_for(path) if isinstance(path, (str, Path)) else None),
        ) from error


def read_mapping(path: Path, *, what: str = "the file", fix: str | None = None) -> dict[str, Any]:
    """A YAML file that is a mapping of keys to values.

    Args:
        path: The file.
        what: What it is, for the message.
        fix: What to do where it is something else.

    Raises:
        InputError: The file cannot be read, is not valid YAML, or is no mapping.
    """
    content = read_yaml(path, fix=fix)
    if not isinstance(content, dict):
        raise InputError(
            f"{what} is a mapping of keys to values", where=path, fix=fix or remedy_for(path)
        )
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"the key {key!r} is no text", where=path, fix="put it in quotes")
    return content


def read_yaml(path: Path, *, fix: str | None = None) -> Any:
    """The content of a YAML file; dates stay text.

    Raises:
        InputError: The file cannot be read or is not valid YAML, a key is there twice, it nests
            too deeply, aliases make it too large, or a number is too long.
    """
    return parse_yaml(read_text(path, fix=fix), path)


def parse_yaml(text: str, where: object) -> Any:
    """The content of a YAML text; raises as `read_yaml`."""
    try:
        _bound(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error) or "cannot be parsed"
        raise InputError(
            f"not valid YAML: {problem}",
            where=where if mark is None else f"{where}:{mark.line + 1}",
            fix="check indentation, quotes and repeated keys there",
        ) from None
    except RecursionError:
        raise InputError("not valid YAML: nested too deeply", where=where) from None


class _BoundError(yaml.MarkedYAMLError):
    """The text would be too much."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(None, None, problem, mark)


def _bound(text: str) -> None:
    """Refuse what is deep, or large once aliases are put in, before anything is built of it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_Parser):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(name == anchor for name, _ in open_nodes):
                raise _BoundError(f"*{anchor} holds itself", event.start_mark)
            count += sizes.get(anchor or "", 1)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            count += 1
            open_nodes.append((anchor, count))
            if len(open_nodes) > _MOST_DEPTH:
                what = f"nested more than {_MOST_DEPTH} deep"
                raise _BoundError(what, event.start_mark)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            name, before = open_nodes.pop()
            if name is not None:
                sizes[name] = count - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if _NO_TEXT.search(event.value):
                what = "a null character or half a surrogate pair, which no text holds"
                raise _BoundError(what, event.start_mark)
            if anchor is not None:
                sizes[anchor] = 1
        if count > _MOST_NODES:
            what = f"more than {_MOST_NODES:,} values, aliases counted as often as they are used"
            raise _BoundError(what, event.start_mark)


_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):  # type: ignore[misc]
    """A safe loader that refuses a key that is there twice, and keeps dates as text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a repeated key would silently win over the first."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is there twice", key.start_mark
                    )
                seen.add(name)
        try:
            built: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        except (TypeError, RecursionError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"no mapping ({error})", node.start_mark
            ) from None
        return built

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Build a value; what Python refuses is an error of that place."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"no value of that kind ({error})", node.start_mark
            ) from None

    def construct_yaml_int(self, node: Any) -> int:
        """Build a whole number; one of thousands of digits takes minutes to write again."""
        if len(node.value) > _MOST_DIGITS:
            raise ValueError(f"a number of {len(node.value):,} characters")
        number: int = super().construct_yaml_int(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Parser.yaml_implicit_resolvers.items()
}

_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_NAME = re.compile(r"[\w][\w .+=@,()-]*")


def file_name(name: str) -> str:
    """A name of the user's that files and folders of ours get.

    Raises:
        ValueError: It could lead elsewhere, or a file system or a shell would not take it.
    """
    if not _NAME.fullmatch(name) or name.endswith((".", " ")):
        raise ValueError(
            "begin a name with a letter or digit, and use letters, digits, spaces and _ - . in it"
        )
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"use at most {_LONGEST_NAME} bytes for a name")
    return name
