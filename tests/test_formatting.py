"""One form of numbers, sizes and Markdown; nothing of data leaves its place."""

from __future__ import annotations

import html
import re

import pytest

from multitask.formatting import (
    age,
    byte_size,
    cell,
    clock,
    fenced,
    first_line,
    interval,
    listed,
    number,
    p_value,
    plural,
    points_interval,
    with_interval,
)

ESTIMATE = {"value": 0.856, "low": 0.8431, "high": 0.8}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(0.856), "85.6 %"),
        (number(0.4117, share=False), "0.412"),
        (interval(ESTIMATE), "84.3 to 80.0"),
        (interval(ESTIMATE, share=False, to="-"), "0.843-0.800"),
        (with_interval(ESTIMATE), "85.6 % (84.3 to 80.0)"),
        (points_interval({"low": -0.003, "high": 0.027}), "-0.3 to +2.7"),
        (p_value(0.0004), "< 0.001"),
        (p_value(0.0324), "0.032"),
        (byte_size(358_212), "358 kB"),
        (byte_size(12_300_000), "12 MB"),
        (byte_size(1.26e9), "1.3 GB"),
        (byte_size(1.41e11), "141 GB"),
        (byte_size(0), "0 kB"),
        (age(-3), "0 s"),
        (age(720), "12 min"),
        (age(3 * 86400), "3 d"),
        (clock(45), "0:45"),
        (clock(3723), "1:02:03"),
        (plural(1, "file"), "1 file"),
        (plural(2000, "file"), "2,000 files"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (first_line(ValueError("one\ntwo")), "one"),
        (first_line(ValueError("")), "ValueError"),
    ],
)
def test_it_is_written_so(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_cell_cannot_be_left() -> None:
    hostile = '<script>alert("x")</script> & | `code` {{ 7*7 }} [a](b)\n# new line'
    shown = cell(hostile)
    assert re.findall(r"[|`<>{}\n#*\[]", shown.replace("&#", "")) == []
    assert html.unescape(shown) == " ".join(hostile.split())


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    block = fenced("a\n````\nb", "text")
    assert block.startswith("`````text\n")
    assert block.endswith("\n`````")
