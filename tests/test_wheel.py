"""The wheel: holds templates, configurations and sample, and works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(out), str(ROOT)],
        check=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_data_files_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in [*(ROOT / "templates").rglob("*.*"), *(ROOT / "configs").rglob("*.*")]:
        assert f"multitask/_resources/{path.relative_to(ROOT)}" in names
    for name in (
        "multitask/py.typed",
        "multitask/data/sample/banking77/train.csv",
        "multitask/reports/report.html.j2",
        "multitask/runners/axolotl/axolotl_schema.json",
    ):
        assert name in names


def test_the_installed_wheel_prepares_the_sample(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel],
        check=True,
    )
    code = (
        "import multitask, multitask.cli as c; assert 'site' in multitask.__file__; "
        "import sys; sys.argv[1:] = ['init']; c.main()"
    )
    environment = dict(os.environ) | {"PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    code = code.replace("['init']", "['prepare', 'multitask.yaml', '--sample', '--out', 'run']")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "run" / "data" / "train.jsonl").is_file()
