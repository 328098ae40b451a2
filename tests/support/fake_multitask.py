"""``multitask`` with the fake training: ``fake_multitask.py -m multitask COMMAND ...``.

It stands in for the interpreter that ``MULTITASK_PYTHON`` names. A spec with ``name: broken`` does
not evaluate.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent


def main() -> None:
    command, *arguments = sys.argv[3:]
    if command == "build-config":
        build(Path(arguments[0]), Path(arguments[2]))
    elif command == "train":
        script = str(HERE / "supervise.py")
        options = json.dumps({"resume": True, "stop": 20})
        os.execv(sys.executable, [sys.executable, script, arguments[0], "0", "1", options])
    elif command == "evaluate":
        evaluate(Path(arguments[0]))


def build(spec: Path, run: Path) -> None:
    (run / "data").mkdir(parents=True, exist_ok=True)
    (run / "spec.yaml").write_text(spec.read_text())
    (run / "axolotl.yaml").write_text("learning_rate: 0.1\n")
    (run / "data" / "manifest.json").write_text(
        json.dumps({"files": {"train.jsonl": {"sha256": "rows"}}})
    )
    (run / "faults.json").write_text("{}")


def evaluate(run: Path) -> None:
    if yaml.safe_load((run / "spec.yaml").read_text()).get("name") == "broken":
        print("error: the model does not load")
        sys.exit(7)
    folder = run / "evaluation" / "trained"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"tasks": {"banking77": {"n": 1}}}))


if __name__ == "__main__":
    main()
