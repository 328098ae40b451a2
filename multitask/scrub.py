"""Keeps secrets, and this machine's paths, out of what is written for people or uploaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

REMOVED = "(removed)"

_WORDS = r"(?:api_?key|secret|passw(?:or)?d|credential|(?:auth|access|hub|hf|api)_?token)"
_NAMES = rf"[\w-]*{_WORDS}[\w-]*"
_KEY = re.compile(rf"""(?im)^(\s*(?:-\s+)?["']?{_NAMES}["']?\s*[:=]\s*)(?!null\b|~)\S.*$""")
_TOKEN = re.compile(r"\b(?:hf|api_org|sk|ghp|gho|rpa)_[A-Za-z0-9]{16,}\b|\bsk-[A-Za-z0-9_-]{20,}")
_LOGIN_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_VARIABLE = re.compile(r"(?i)(?:^|_)(?:token|secret|passw(?:or)?d|api_?key|credentials?)(?:$|_)")
_PATH = re.compile(r"(?<![\w:/.~])~?/(?:[\w.@+-]+/)+([\w.@+-]+)")
_SHORTEST = 8


def secrets() -> tuple[str, ...]:
    """Values on this machine that must never be written: the login, and secret variables."""
    from huggingface_hub import get_token

    values = {value for name, value in os.environ.items() if _VARIABLE.search(name)}
    values.add(get_token() or "")
    long = {v for v in values if len(v) >= _SHORTEST and not Path(v).exists() and not v.isdigit()}
    return tuple(sorted(long, key=len, reverse=True))


def hide_secrets(text: str) -> str:
    """Remove the secrets of this machine, and what looks like a token or a login."""
    for value in secrets():
        text = text.replace(value, REMOVED)
    return hide_patterns(text)


def hide_patterns(text: str) -> str:
    """Remove what looks like a token or a login, whatever this machine's own are."""
    return _LOGIN_IN_URL.sub(REMOVED, _TOKEN.sub(REMOVED, text))


def hide_settings(text: str) -> str:
    """Remove secrets from a configuration: also the values of keys that are named like one."""
    return _KEY.sub(rf'\1"{REMOVED}"', hide_secrets(text))


def find_secret(content: Any, key: str = "", *, by_name: bool = True) -> str | None:
    """Find a login that is written out in a configuration.

    Args:
        content: Mappings, lists and values, as YAML gives them.
        key: Where they stand, for the answer.
        by_name: Take a text for a secret because its key is named like one; else only what looks
            like a token, or a login in a URL.

    Returns:
        The key whose value is a secret, or looks like one; None where there is none.
    """
    if isinstance(content, dict):
        for name, value in content.items():
            place = f"{key}.{name}" if key else str(name)
            named = re.fullmatch(_NAMES, str(name), re.IGNORECASE) is not None
            if by_name and named and isinstance(value, str) and value:
                return place
            if (found := find_secret(value, place, by_name=by_name)) is not None:
                return found
    elif isinstance(content, list):
        places = (find_secret(value, key, by_name=by_name) for value in content)
        return next((place for place in places if place is not None), None)
    elif isinstance(content, str) and (_TOKEN.search(content) or _LOGIN_IN_URL.search(content)):
        return key
    return None


def scrub(text: str, root: Path, *, yaml: bool = False) -> str:
    """Remove secrets from a text, and make paths of this machine relative or short.

    Args:
        text: A configuration, a result or a page.
        root: The run directory; it becomes ``.``.
        yaml: Remove the values of keys that are named like secrets too.
    """
    text = hide_settings(text) if yaml else hide_secrets(text)
    absolute = str(root.resolve())
    text = text.replace(absolute + "/", "").replace(absolute, ".")
    return _PATH.sub(r"\1", text)
