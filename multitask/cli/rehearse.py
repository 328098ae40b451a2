"""``multitask rehearse``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from multitask.cli.options import RunPath

if TYPE_CHECKING:
    from multitask.checks import Check
    from multitask.rehearsal.faults import Kind

_Faults = list[str] | None


def rehearse(
    run: RunPath,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many nodes.", show_default="the cluster's"),
    ] = None,
    procs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many processes on each node.",
            show_default="the cluster's GPUs",
        ),
    ] = None,
    kill: Annotated[
        _Faults,
        typer.Option(
            metavar="rank:R@step:S|node:N@save",
            help="Kill a rank at a step, or a node in the middle of a save. Repeatable.",
        ),
    ] = None,
    stall: Annotated[
        _Faults,
        typer.Option(metavar="rank:R@step:S", help="Let a rank hang at a step. Repeatable."),
    ] = None,
    disk_full: Annotated[
        _Faults,
        typer.Option(
            metavar="node:N@save",
            help="Let a node's disk be full in the middle of a save. Repeatable.",
        ),
    ] = None,
    partition: Annotated[
        _Faults,
        typer.Option(
            metavar="node:N@step:S",
            help="Cut a node off from the others at a step; needs --netns. Repeatable.",
        ),
    ] = None,
    netns: Annotated[
        bool,
        typer.Option("--netns", help="Give each node a network namespace of its own; needs root."),
    ] = False,
    undisturbed: Annotated[
        bool,
        typer.Option(
            "--undisturbed", help="Only train undisturbed; leave out the training with faults."
        ),
    ] = False,
) -> None:
    """Run the cluster's training in small on this CPU: same files, same ranks, real Axolotl.

    Trains twice, once undisturbed and once with a rank killed (or the faults you name), and checks
    that the second resumes and ends with the same losses. Writes RUN/rehearsal/.

    Example: multitask rehearse runs/first --kill node:1@step:5
    """
    from multitask.rehearsal.rehearse import rehearse as rehearse_run
    from multitask.run import Run

    asked: dict[Kind, _Faults] = {"kill": kill, "stall": stall}
    asked |= {"disk-full": disk_full, "partition": partition}
    result = rehearse_run(
        Run.open(run),
        nodes=nodes,
        procs=procs,
        faults=[(kind, text) for kind, texts in asked.items() for text in texts or ()],
        undisturbed_only=undisturbed,
        netns=netns,
        say=lambda message: typer.echo(f"- {message}", err=True),
        on_check=_show,
    )
    html = result.write()
    typer.echo("\nnot proven by a rehearsal on a CPU:")
    for line in result.unproven:
        typer.echo(f"- {line}")
    word = "passed" if result.checks.passed else "FAILED"
    typer.echo(f"\n{word} in {result.seconds:.0f} s; {len(result.changes)} changes: {html}")
    if not result.checks.passed:
        raise typer.Exit(1)


def _show(check: Check) -> None:
    mark = "ok  " if check.passed else "FAIL"
    typer.echo(f"{mark} {check.seconds:6.1f} s  {check.question}: {check.answer}")
