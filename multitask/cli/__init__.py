"""The ``multitask`` command. One subcommand a file; nothing heavy is imported here."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from multitask.cli.build_config import build_config
from multitask.cli.checkpoints import checkpoints
from multitask.cli.doctor import doctor
from multitask.cli.estimate import estimate
from multitask.cli.evaluate import evaluate
from multitask.cli.export import export
from multitask.cli.guard import guarded, show
from multitask.cli.init import init
from multitask.cli.job import job
from multitask.cli.prepare import prepare
from multitask.cli.push import push
from multitask.cli.quickstart import quickstart
from multitask.cli.rehearse import rehearse
from multitask.cli.report import report
from multitask.cli.train import train
from multitask.errors import MultitaskError

app = typer.Typer(
    name="multitask",
    help="Fine-tune one language model on many tasks with Axolotl: build, train, score, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    quickstart,
    init,
    doctor,
    prepare,
    estimate,
    build_config,
    rehearse,
    train,
    checkpoints,
    evaluate,
    report,
    export,
    push,
    job,
):
    app.command()(guarded(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        from multitask import __version__

        typer.echo(f"multitask {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
    ),
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; exit codes: 0 done, 1 the work failed, 2 the input was wrong."""
    try:
        app(standalone_mode=True)
    except MultitaskError as error:
        show(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(0)
