"""A real machine over the fake training: ``machine.py`` with the job in its environment.

Its commands take seconds, everything else is what the image runs. ``MULTITASK_TEST_CHECK_SECONDS``
says how long nodes may take to come up; ``RUN/fail-evaluating`` lets the evaluation fail.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.machine.checks import Wanted
from multitask.machine.commands import Commands
from multitask.machine.main import run_machine
from multitask.machine.protocol import Phase
from multitask.machine.settings import Place, container_environment, read_settings

HERE = Path(__file__).parent
_EVALUATE = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
if (run / "data" / "fail-evaluating").exists():
    print("error: the model does not load")
    sys.exit(7)
folder = run / "evaluation" / "trained"
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps({"tasks": {}}))
"""


class FakeCommands(Commands):
    """Seconds of work in place of a training."""

    def wanted(self, bundle: str) -> Wanted:
        return Wanted(bundle, 0, None)

    def check_place(self, place: Place) -> None:
        return

    def train(self, place: Place) -> tuple[list[str], dict[str, str]]:
        options = json.dumps({"resume": True, "stop": 20})
        script = str(HERE / "supervise.py")
        return [sys.executable, script, str(self.root), str(place.node), str(place.nodes),
                options], {}  # fmt: skip

    def after(self, phase: Phase) -> Phase:
        return "evaluating" if phase == "training" else "done"

    def of(self, phase: Phase, gpus: int) -> list[str]:
        return [sys.executable, "-c", _EVALUATE, str(self.root)]


def main() -> int:
    environ = container_environment(first=Path("/nowhere"))
    try:
        return run_machine(
            read_settings(environ),
            environ,
            commands=FakeCommands,
            check_seconds=float(os.environ.get("MULTITASK_TEST_CHECK_SECONDS", "30")),
            host="127.0.0.1",
        )
    except MultitaskError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
