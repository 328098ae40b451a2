"""Text of the page can be read in both colour schemes (WCAG 2.2, contrast of 4.5 to 1).

Chromium's accessibility check leaves text in scrolled tables undecided, so the palette is
measured here.
"""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("multitask.reports").joinpath("page.css").read_text("utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--(\w+): #(\w+)", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
)
_TEXT = ("ink", "soft", "model", "good", "bad", "open")
_CURVES = ("c1", "c2", "c3", "c4", "c5", "c6")


def _luminance(color: str) -> float:
    digits = color if len(color) == 6 else "".join(2 * digit for digit in color)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, two: str) -> float:
    low, high = sorted((_luminance(one), _luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_both_schemes_define_the_same_colors() -> None:
    assert LIGHT.keys() == DARK.keys()


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_text_can_be_read(scheme: dict[str, str], ground: str) -> None:
    low = {name: _contrast(scheme[name], scheme[ground]) for name in _TEXT}
    assert {name: round(found, 2) for name, found in low.items() if found < 4.5} == {}


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_can_be_seen(scheme: dict[str, str]) -> None:
    low = {name: _contrast(scheme[name], scheme["page"]) for name in _CURVES}
    assert {name: round(found, 2) for name, found in low.items() if found < 3} == {}
