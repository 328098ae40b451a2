"""Values that have broken readers of configurations before."""

from __future__ import annotations

from random import Random
from typing import Any

WEIRD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-9, 1e9, 1e18, 1e308, 10**30, 2**31, 2**63, 2**64,
    float("inf"), float("-inf"), float("nan"), 0.985, 0.99, 0.999, 1.0,
    "", " ", ".", "..", "/", "../../x", "../x", "a/b/c", "~", "~nouser", "~nouser/x", "~/x",
    "/dev/null", "/proc/self/mem", "/root", "/etc/passwd", ".hidden", "-rf", "--help",
    "x" * 300, "x" * 5000, "y/" * 3000, "\x00", "a\x00b", "loop", "loop/x", "dangling", "folder",
    "\n", "a\nb", "\r\n# x", "\x1b[31mred", "\u202eabc", "\ud800", "é", "😀", "`id`", "$(id)",
    "<script>", "{{ 7*7 }}", "{% for i in range(9) %}", "${x}", "%s%n", "%999999d", "inf", "nan",
    "null", "true", "off", "2024-02-30", "1_000", "0x10", "1e400", "owner/model", "a/b", "spec.yaml",
    "macro", "worst", "base", "general", "text_claims", "banking77", "data.csv", "other.csv",
    "hf_abcdefghijklmnopqrstuvwxyz012345", "https://user:secret@host/x",
    [], {}, [[]], [None], [1, 2], ["a"], [{}], {"a": 1}, {"": ""}, {1: 2}, {"a": {"b": {"c": []}}},
    ["x"] * 2000, {"path": "data.csv"}, {"hub": "owner/name"}, {"train": "data.csv", "test": "data.csv"},
    {"prompt": "{{ text }}", "response": "{{ label }}"}, {"wandb": {"project": "x"}},
]  # fmt: skip


def weird(random: Random) -> Any:
    """One of them, or a nest of some."""
    value = random.choice(WEIRD)
    if random.random() < 0.03:
        for _ in range(random.choice([3, 30, 300])):
            value = [value] if random.random() < 0.5 else {"k": value}
    return value


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in nested content."""
    found = [path] if path else []
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in items:
        found += places(value, (*path, key))
    return found


def put(content: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def take(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content.pop(path[-1])


def typo(word: str, random: Random) -> str:
    if not word:
        return "x"
    at = random.randrange(len(word))
    return random.choice([word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word.upper()])
