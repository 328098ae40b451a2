"""One node of a rehearsal: the supervisor that a real node runs, around a CPU launch."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.rehearsal.forkserver import Forkserver
from multitask.run import Run
from multitask.training.supervisor import Options, Supervisor

# A rehearsal's failures are meant, so nobody waits long for them.
OPTIONS = Options(
    backoff=0.5, longest_backoff=2.0, poll=0.1, beat=1.0, dead=20.0, patience=300.0, stop=60.0,
    stall=20.0, pause=120.0,
)  # fmt: skip

_CLIENT = Path(__file__).with_name("forkclient.py")


def main() -> None:
    """Supervise this node; exit codes as ``multitask train``'s."""
    parser = argparse.ArgumentParser(prog="multitask.rehearsal.node", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--node", type=int, required=True)
    parser.add_argument("--procs", type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    parser.add_argument("--master-port", required=True)
    parser.add_argument("--forkserver", help="where a rehearsal that holds standard input listens")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("root", type=Path)
    arguments = parser.parse_args()
    try:
        with ExitStack() as stack:
            if arguments.forkserver is None:
                forks = stack.enter_context(_own_forkserver(arguments))
                arguments.forkserver = str(forks.address)
            else:
                threading.Thread(target=_end_with_the_rehearsal, daemon=True).start()
            _supervise(arguments)
    except MultitaskError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def _own_forkserver(arguments: argparse.Namespace) -> Forkserver:
    """Of a node that is a machine of its own."""
    log = Run(arguments.root).logs / f"forkserver-{arguments.node}.log"
    forks = Forkserver(log)
    forks.wait()
    return forks


def _supervise(arguments: argparse.Namespace) -> None:
    run = Run(arguments.root)

    def command(checkpoint: Path | None, rank_logs: Path) -> list[str]:
        launch = [sys.executable, "-I", "-S", str(_CLIENT), arguments.forkserver]
        launch += ["--nnodes", str(arguments.nodes), "--node-rank", str(arguments.node)]
        launch += ["--nproc-per-node", str(arguments.procs)]
        launch += ["--master-addr", arguments.master_addr]
        launch += ["--master-port", arguments.master_port]
        launch += ["--log-dir", str(rank_logs.resolve())]
        if checkpoint is not None:
            launch += ["--resume", str(checkpoint.resolve())]
        return [*launch, str(run.axolotl.resolve())]

    supervisor = Supervisor(
        run,
        command,
        nodes=arguments.nodes,
        node=arguments.node,
        world_size=arguments.nodes * arguments.procs,
        options=OPTIONS,
        say=lambda message: print(message, file=sys.stderr, flush=True),  # noqa: T201
    )
    supervisor.supervise(resume=arguments.resume)


def _end_with_the_rehearsal() -> None:
    """Leave as soon as the rehearsal is gone, however that came; the fork server ends the ranks."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
