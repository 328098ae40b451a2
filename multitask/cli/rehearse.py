"""``multitask rehearse``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from multitask.cli.options import RunPath

if TYPE_CHECKING:
    from multitask.checks import Check
    from multitask.rehearsal.faults import Fault, Kind
    from multitask.run import Run

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
    from multitask.rehearsal.page import write_page
    from multitask.rehearsal.rehearse import rehearse as rehearse_run
    from multitask.rehearsal.result import Wishes
    from multitask.run import Run

    opened = Run.open(run)
    wishes = Wishes(
        nodes=nodes,
        procs=procs,
        faults=_faults(opened, nodes, procs, kill, stall, disk_full, partition),
        undisturbed_only=undisturbed,
        netns=netns,
    )
    result = rehearse_run(
        opened,
        wishes,
        say=lambda message: typer.echo(f"- {message}", err=True),
        on_check=_show,
    )
    html = write_page(result)
    typer.echo("\nnot proven by a rehearsal on a CPU:")
    for line in result.record()["not_proven"]:
        typer.echo(f"- {line}")
    word = "passed" if result.passed else "FAILED"
    typer.echo(f"\n{word} in {result.seconds:.0f} s; {len(result.changes)} changes: {html}")
    if not result.passed:
        raise typer.Exit(1)


def _faults(run: Run, nodes: int | None, procs: int | None, *asked: _Faults) -> tuple[Fault, ...]:
    from multitask.cluster import load_cluster
    from multitask.rehearsal.faults import parse_fault
    from multitask.spec import load_spec

    cluster = load_cluster(load_spec(run.spec).cluster)
    kinds: tuple[Kind, ...] = ("kill", "stall", "disk-full", "partition")
    return tuple(
        parse_fault(
            kind,
            text,
            nodes=nodes or cluster.nodes,
            procs=procs or max(1, cluster.gpus_per_node),
        )
        for kind, texts in zip(kinds, asked, strict=True)
        for text in texts or ()
    )


def _show(check: Check) -> None:
    mark = "ok  " if check.passed else "FAIL"
    typer.echo(f"{mark} {check.seconds:6.1f} s  {check.question}: {check.answer}")
