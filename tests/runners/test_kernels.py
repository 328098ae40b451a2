"""The flash-attention kernel without a network, as the package ``kernels`` itself loads it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from multitask.doctor.packages import kernel_check
from multitask.runners.axolotl.kernels import LOCAL, REPOSITORY, VERSION

pytest.importorskip("kernels")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_METADATA = {
    "id": "flash", "name": "flash-attn2", "version": VERSION, "license": "BSD-3-Clause",
    "python-depends": [], "backend": {"type": "cpu"},
}  # fmt: skip
_FILES = {
    "build/torch-cpu/metadata.json": json.dumps(_METADATA),
    "build/torch-cpu/__init__.py": "flash_attn_varlen_func = print\n",
}
_LOAD = f"from kernels import get_kernel; print(get_kernel({REPOSITORY!r}, version={VERSION}))"
# What Axolotl's validator asks, and what transformers loads in its model.
_TRAIN = """
from multitask.plugin import MultitaskPlugin
run = {"axolotl_config_path": "run/axolotl.yaml", "attn_implementation": "flash_attention_2"}
MultitaskPlugin().register(run)
from axolotl.monkeypatch.attention import fa2_hub_kernel as axolotl
assert axolotl.is_fa2_hub_kernel_available()
axolotl.patch_fa2_hub_kernel_version()
from transformers.integrations.hub_kernels import load_and_register_attn_kernel
load_and_register_attn_kernel("kernels-community/flash-attn2")
"""


class _Hub(BaseHTTPRequestHandler):
    """A repository of kernels with one build, for the CPU."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        answers = {
            f"/api/kernels/{REPOSITORY}/refs": {
                "branches": [{"name": "v2", "ref": "refs/heads/v2", "targetCommit": COMMIT}],
                "converts": [],
                "tags": [],
            },
            f"/api/kernels/{REPOSITORY}/tree/{COMMIT}/build": [
                {"type": "directory", "path": "build/torch-cpu", "oid": COMMIT, "size": 0}
            ],
            f"/api/kernels/{REPOSITORY}/tree/{COMMIT}": [
                {"type": "file", "path": name, "oid": COMMIT, "size": len(text)}
                for name, text in _FILES.items()
            ],
            f"/api/kernels/{REPOSITORY}/revision/{COMMIT}": {"id": REPOSITORY, "sha": COMMIT},
        }
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        if path in answers:
            self._send(200, json.dumps(answers[path]))
        elif name in _FILES:
            self._send(200, _FILES[name], ETag=f'"{len(_FILES[name]):040d}"')
        else:
            self._send(404, "", **{"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _python(
    home: Path, *command: str, endpoint: str = "http://127.0.0.1:9", **more: str
) -> subprocess.CompletedProcess[str]:
    """A Python whose Hub is at an address where nobody answers, unless told."""
    environment = {
        "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(home),
        "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "AXOLOTL_DO_NOT_TRACK": "1", **more,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd="/"
    )


_FETCH = ("-m", "multitask.runners.axolotl.kernels", "fetch")


def test_a_cached_kernel_is_trained_with_without_a_network(hub: str, tmp_path: Path) -> None:
    fetched = _python(tmp_path, *_FETCH, endpoint=hub)
    assert fetched.returncode == 0, fetched.stderr
    # kernels alone asks the Hub, and offline finds no branch in the cache (kernels 0.16.2).
    assert _python(tmp_path, "-c", _LOAD).returncode == 1
    assert _python(tmp_path, "-c", _LOAD, HF_HUB_OFFLINE="1").returncode == 1
    done = _python(tmp_path, "-c", _TRAIN)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_the_image_s_own_is_taken(hub: str, tmp_path: Path) -> None:
    folder = tmp_path / "opt" / "flash-attn2"
    fetched = _python(tmp_path, *_FETCH, str(folder), endpoint=hub)
    assert fetched.stdout.strip() == str(folder), fetched.stderr
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    named = {LOCAL: f"{REPOSITORY}={folder}"}
    assert _python(tmp_path / "elsewhere", "-c", _LOAD, **named).returncode == 0


@pytest.mark.parametrize("cached", [True, False])
def test_doctor_asks_for_the_kernel_and_not_for_the_package(
    hub: str, tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cached:
        _python(tmp_path, *_FETCH, endpoint=hub, KERNELS_CACHE=str(tmp_path))
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    check = kernel_check("software", "flash-attn", "problem", 1.0)
    assert check.severity == ("ok" if cached else "problem"), check
    assert ("multitask.runners.axolotl.kernels fetch" in check.remedy) == (not cached)


def test_it_is_the_kernel_that_axolotl_and_transformers_name() -> None:
    fa2 = pytest.importorskip("axolotl.monkeypatch.attention.fa2_hub_kernel")
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

    assert FLASH_ATTN_KERNEL_FALLBACK["flash_attention_2"] == REPOSITORY
    assert fa2.FA2_HUB_KERNEL_VERSION == VERSION
