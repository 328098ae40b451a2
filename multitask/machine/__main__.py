"""``python -m multitask.machine [serve|guard|remove|environment]``: what the image starts."""

from __future__ import annotations

import argparse
import shlex
import sys

from multitask.errors import MultitaskError
from multitask.machine.settings import (
    CLUSTER_VARIABLES,
    container_environment,
    read_place,
    read_role,
    read_settings,
    removal_settings,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a machine's part; the exit code."""
    parser = argparse.ArgumentParser(prog="multitask machine", description=__doc__)
    parser.add_argument(
        "action",
        nargs="?",
        default="serve",
        choices=["serve", "guard", "remove", "environment"],
        help="serve: do the job. guard: remove the machine after its end. remove: remove it after "
        "its grace. environment: print the cluster's variables for a shell.",
    )
    action = parser.parse_args(arguments).action
    environ = container_environment()
    try:
        if action == "environment":
            return _print_environment(environ)
        if action == "serve" and read_role(environ) == "serverless":
            from multitask.machine.serverless import start

            return start()
        return _machine(action, environ)
    except MultitaskError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code


def _machine(action: str, environ: dict[str, str]) -> int:
    from multitask.machine import main as machine

    if action == "remove":
        machine.leave_on_term()
        return machine.remove_later(removal_settings(environ), environ)
    settings = read_settings(environ)
    if action == "guard":
        machine.leave_on_term()
        return machine.guard(settings, environ)
    return machine.run_machine(settings, environ)


def _print_environment(environ: dict[str, str]) -> int:
    from multitask.machine.settings import network_variables

    shown = {name: environ[name] for name in CLUSTER_VARIABLES if name in environ}
    shown |= network_variables(read_place(environ), environ)
    for name, value in shown.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
