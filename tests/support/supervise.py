"""A node's real supervisor over the fake training: ``supervise.py RUN NODE NODES [OPTIONS]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.training.supervisor import Options, Supervisor

FAKE = Path(__file__).parent / "fake_training.py"


def main(root: str, node: str, nodes: str, options: str = "{}") -> int:
    given = json.loads(options)
    resume = given.pop("resume", False)

    def command(checkpoint: Path | None, logs: Path) -> list[str]:
        return [sys.executable, str(FAKE), root, node, nodes, str(checkpoint or "")]

    times = {"poll": 0.02, "beat": 0.1, "dead": 30.0, "backoff": 0.05, "patience": 120.0}
    supervisor = Supervisor(
        Run(Path(root)),
        command,
        nodes=int(nodes),
        node=int(node),
        world_size=int(nodes),
        options=Options(**times | given),
        say=lambda message: print(message, flush=True),
    )
    try:
        supervisor.supervise(resume=resume)
    except MultitaskError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
