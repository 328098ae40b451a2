"""How numbers, sizes, times and Markdown are written for people: one form everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MARKUP = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]<>#|~&"}
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))


def number(value: float, *, share: bool = True) -> str:
    """Such as ``85.6 %`` for a share in 0..1, and ``0.412`` for anything else."""
    return f"{100 * value:.1f} %" if share else f"{value:.3f}"


def interval(estimate: Mapping[str, float], *, share: bool = True, to: str = " to ") -> str:
    """Such as ``84.3 to 86.8``, from ``low`` and ``high``, in the unit of `number`."""
    low, high = estimate["low"], estimate["high"]
    return f"{100 * low:.1f}{to}{100 * high:.1f}" if share else f"{low:.3f}{to}{high:.3f}"


def with_interval(estimate: Mapping[str, float], *, share: bool = True) -> str:
    """Such as ``85.6 % (84.3 to 86.8)``."""
    return f"{number(estimate['value'], share=share)} ({interval(estimate, share=share)})"


def points(difference: float) -> str:
    """Such as ``+1.2``, from a difference of two shares."""
    return f"{100 * difference:+.1f}"


def points_interval(difference: Mapping[str, float]) -> str:
    """Such as ``-0.3 to +2.7``, from ``low`` and ``high``."""
    return f"{points(difference['low'])} to {points(difference['high'])}"


def p_value(value: float) -> str:
    """Such as ``0.032`` or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def byte_size(count: float) -> str:
    """Bytes, such as ``358 kB``, ``12 MB``, ``1.3 GB`` or ``141 GB``."""
    digits = 3 if count >= 1e9 else 2 if count >= 1e6 else 1
    value = count / 1000**digits
    return f"{value:,.{1 if digits == 3 and value < 100 else 0}f} {'_kMG'[digits]}B"


def age(seconds: float) -> str:
    """Such as ``45 s``, ``12 min`` or ``3 d``."""
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def clock(seconds: float) -> str:
    """Such as ``0:45`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plural(count: int, noun: str) -> str:
    """Such as ``1 problem`` or ``3 problems``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Such as ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def one_line(text: object) -> str:
    """A text with every run of white space as one space."""
    return " ".join(str(text).split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message; without one, its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cell(value: object) -> str:
    """Text for a Markdown table that cannot leave its cell or start markup or HTML."""
    return one_line(value).translate(_MARKUP)


def fenced(text: str, language: str = "") -> str:
    """A Markdown code block whose fence is longer than any that the text holds."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
