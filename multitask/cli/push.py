"""``multitask push``."""

from __future__ import annotations

import os
import sys
from functools import partial
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
    from multitask.hub.push import PushSettings
    from multitask.hub.push import push as push_run
    from multitask.quiet import quiet_libraries
    from multitask.run import Run

    opened = Run.open(run)
    repo_id = repo_id or _repo_of(opened)
    if sys.stderr.isatty():  # the Hub's own client shows how far an upload is
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    quiet_libraries()
    settings = PushSettings(merged, force, public, license_, base_model, checkpoint)
    say = partial(typer.echo, err=True)
    done = push_run(opened, repo_id, settings, report=say)
    for note in done.notes:
        say(f"note: {note}")
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
