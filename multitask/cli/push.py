"""``multitask push``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def push(
    run: RunPath,
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub, or a name of yours.")
    ],
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
    quiet_libraries()
    settings = PushSettings(merged, force, public, license_, base_model)
    with progress_bar() as bar:
        done = push_run(opened, repo_id, settings, progress=bar.update, report=bar.say)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{done.url}\n{done.files} files, commit {done.commit}")
