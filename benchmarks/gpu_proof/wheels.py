"""Gather the wheels that the proof needs beside torch, for a GPU machine without a network.

    .venv/bin/python -m benchmarks.gpu_proof.wheels wheels --python 3.12

Takes the versions installed here, for the other machine's Python. Binaries that the proof never
loads are left out (bitsandbytes for other CUDA versions, wandb's service, lm_eval's tasks): some
45 MB remain. The other machine brings torch with triton, numpy, scipy, scikit-learn, numba,
pandas, pyarrow, pillow, psutil, and what `pip list` of any of CUDA's images has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

# Found by importing all that a training and a scoring import, less what comes with torch.
NAMES = """
accelerate addict annotated-types axolotl axolotl-contribs-lgpl axolotl-contribs-mit backoff
bitsandbytes chardet datasets datasketch defusedxml dill distro evaluate fastcore fire
googleapis-common-protos huggingface_hub kernels kernels-data liger_kernel lm_eval multiprocess
opentelemetry-api opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common
opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-http
opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions orjson peft platformdirs
posthog pydantic pydantic_core pytz sniffio termcolor tokenizers torchao transformers trl
typing-inspection wandb zstandard
"""
PLATFORMS = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")


def _unused(cuda: str) -> dict[str, Callable[[str], bool]]:
    """For a package, which of its files are left out."""
    return {
        "bitsandbytes": lambda name: name.endswith(".so") and cuda not in name,
        "wandb": lambda name: name.startswith("wandb/bin/"),
        "lm_eval": lambda name: name.startswith("lm_eval/tasks/") and name.count("/") > 2,
    }


def strip(path: Path, unused: Callable[[str], bool]) -> None:
    """Write a wheel anew without some of its files."""
    whole = path.rename(path.with_suffix(".whole"))
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for entry in source.infolist():
            if unused(entry.filename):
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines()
                kept = [line for line in lines if not unused(line.split(",")[0])]
                content = ("\n".join(kept) + "\n").encode()
            out.writestr(entry, content)
    whole.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the other machine's Python")
    parser.add_argument("--cuda", default="130", help="its CUDA version, as bitsandbytes has it")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    there = ["--only-binary=:all:", "--python-version", arguments.python]
    there += ["--implementation", "cp", "--platform", "any"]
    for number in PLATFORMS:
        there += ["--platform", f"manylinux_{number}_x86_64"]
    there += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    names = NAMES.split()
    for name in names:
        what = ["--quiet", "--no-deps", f"{name}=={version(name)}"]
        found = subprocess.run(
            [*pip, "download", *there, "-d", str(arguments.folder), *what],
            check=False,
            capture_output=True,
        )
        if found.returncode:  # pure Python, published as source alone
            subprocess.run([*pip, "wheel", "-w", str(arguments.folder), *what], check=True)
    for name, unused in _unused(f"cuda{arguments.cuda}").items():
        for path in arguments.folder.glob(f"{name}-*.whl"):
            strip(path, unused)
    size = sum(path.stat().st_size for path in arguments.folder.glob("*.whl"))
    print(f"{len(names)} wheels, {size / 1e6:.0f} MB in {arguments.folder}")


if __name__ == "__main__":
    main()
