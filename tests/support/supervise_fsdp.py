"""The real supervisor over torchrun with two CPU ranks: ``supervise_fsdp.py RUN [OPTIONS]``."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.training.supervisor import Options, Supervisor

RANKS = 2


def main(root: str, options: str = "{}") -> int:
    given = json.loads(options)
    resume = given.pop("resume", False)

    def command(checkpoint: Path | None, logs: Path) -> list[str]:
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(RANKS)]
        words += ["--master_addr", "127.0.0.1", "--master_port", str(_free_port())]
        words += ["--max_restarts", "0", "--tee", "3", "--log_dir", str(logs)]
        words += ["-m", "axolotl.cli.train", str(Run(Path(root)).axolotl)]
        return words + [f"--resume_from_checkpoint={checkpoint}"] * (checkpoint is not None)

    supervisor = Supervisor(
        Run(Path(root)),
        command,
        world_size=RANKS,
        options=Options(**{"backoff": 0.5} | given),
        say=lambda message: print(message, file=sys.stderr, flush=True),
    )
    try:
        supervisor.supervise(resume=resume)
    except MultitaskError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
