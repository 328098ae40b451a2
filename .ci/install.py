"""Install the package with everything into the environment of the Python that runs this.

With uv, which takes seconds where pip takes minutes, from where pip would take it: pip's settings
are handed on, so that both choose the same builds. Without uv, or where it fails, with pip itself.
What was cut short is completed by the next call.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# pip's settings, and uv's variables for them.
_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}
_PIP = (sys.executable, "-m", "pip")


def main(requirements: list[str]) -> int:
    """Install requirements, torch first in the list; gives the exit code."""
    uv = _uv()
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        # Of several indexes pip takes the best version; uv otherwise the first index alone.
        command += ["--index-strategy", "unsafe-best-match"]
        if _run(*command, *requirements, env=_as_uv_reads_it()).returncode == 0:
            return 0
        sys.stderr.write("uv could not install it; trying pip\n")
    # torch by itself first: pip then takes the build for this machine.
    pip = [*_PIP, "install", "--quiet", "--disable-pip-version-check"]
    torch = [name for name in requirements if name.startswith("torch==")]
    for names in (torch, requirements):
        code = _run(*pip, *names).returncode
        if code:
            return code
    return 0


def _run(*command: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(command, check=False, **options)


def _uv() -> str | None:
    """The path of uv, installed beside this Python where it is missing; None: not to be had."""
    own = Path(sys.executable).with_name("uv")
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        pip = [*_PIP, "install", "--quiet", "--disable-pip-version-check", "uv"]
        if _run(*pip, capture_output=True).returncode == 0:
            found = str(own)
    return found


def _as_uv_reads_it() -> dict[str, str]:
    listed = str(_run(*_PIP, "config", "list", capture_output=True, text=True).stdout)
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        scope, _, key = name.rpartition(".")
        # A variable of the environment says more than a file, and is listed first.
        if key in _SETTINGS and (scope == ":env:" or key not in settings):
            settings[key] = str(ast.literal_eval(value))
    if "extra-index-url" in settings:
        # Where indexes have wheels of one version, uv takes the first index's, and pip the best
        # of all: an extra one may have that of another Python alone.
        first = settings.get("index-url") or _usual_index()
        settings["extra-index-url"] = f"{first} {settings['extra-index-url']}"
    named = {
        _SETTINGS[key]: ("," if key == "find-links" else " ").join(value.split())
        for key, value in settings.items()
    }
    return named | {"UV_HTTP_TIMEOUT": "180"} | dict(os.environ)


def _usual_index() -> str:
    """Where pip looks when nobody says where."""
    from pip._internal.models.index import PyPI

    return PyPI.simple_url


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
