"""``multitask push``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from multitask.cli.options import Checkpoint, RunPath

if TYPE_CHECKING:
    from multitask.run import Run


def push(
    run: RunPath,
    repo_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[REPO_ID]",
            help="owner/name on the Hub, or a name of yours.",
            show_default="the spec's `hub: {repo}`",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="Merge the adapter into the base model and push the whole model."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the files of a repository that has some already."),
    ] = False,
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Let everyone have it; without, only a private repository is used."
        ),
    ] = False,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="The model's license.", show_default="the base model's"),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="The base model's repository, where the spec names a folder.",
        ),
    ] = None,
) -> None:
    """Upload the trained adapter or model, with a model card, to the Hugging Face Hub.

    After an interruption, the same command goes on where it stopped.

    Example: multitask push runs/first me/first-adapter
    """
    from multitask.hub import PushSettings
    from multitask.hub import push as push_run
    from multitask.quiet import quiet_libraries
    from multitask.run import Run
    from multitask.terminal import progress_bar

    opened = Run.open(run)
    repo_id = repo_id or _repo_of(opened)
    quiet_libraries()
    settings = PushSettings(merged, force, public, license_, base_model, checkpoint)
    with progress_bar() as bar:
        done = push_run(opened, repo_id, settings, progress=bar.update, report=bar.say)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{done.url}\n{done.files} files, commit {done.commit}")


def _repo_of(run: Run) -> str:
    """The repository that the run's spec names."""
    from multitask.errors import InputError
    from multitask.spec import load_spec

    hub = load_spec(run.spec).hub
    if hub is None:
        raise InputError(
            "no repository is named, neither here nor by the spec's key 'hub'",
            where=run.spec,
            fix=f"multitask push {run.root} OWNER/NAME",
        )
    return hub.repo
