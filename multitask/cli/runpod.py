"""``multitask runpod``: rent, follow, list, remove."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multitask.cli.options import DataDir, OutPath, RunPath, Sample, default_out, read_spec

if TYPE_CHECKING:
    from multitask.runpod.offers import Offer
    from multitask.runpod.options import Options
    from multitask.spec import Spec

runpod = typer.Typer(
    name="runpod",
    help="Train on machines rented from RunPod: plan, rent, follow, fetch, remove.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecOrRun = Annotated[Path, typer.Argument(metavar="SPEC|RUN", help="A spec file, or a built run.")]
Shapes = Annotated[
    str | None,
    typer.Option(
        help="Clusters to try, in order, with commas. "
        "[default: the spec's, then 2x8-, 1x8-a100-80gb]"
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0.01, help="USD that the run may cost. [default: twice the expected]"),
]
MaxHours = Annotated[float | None, typer.Option(min=0.1, help="Hours that the machines may exist.")]
Volume = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Network volume; several nodes share checkpoints on it."),
]
Price = Annotated[
    float | None,
    typer.Option(min=0.01, help="USD per GPU and hour, where it is not the list price."),
]


@runpod.command()
def plan(
    spec: SpecOrRun,
    out: OutPath = None,
    data_dir: DataDir = None,
    sample: Sample = False,
    shapes: Shapes = None,
    max_cost: MaxCost = None,
    max_hours: MaxHours = None,
    volume: Volume = None,
    price: Price = None,
) -> None:
    """What `up` would rent, for how long and for how much. Rents nothing, needs no account.

    With RUNPOD_API_KEY set the prices are RunPod's of today.

    Example: multitask runpod plan multitask.yaml --volume abc123
    """
    from contextlib import nullcontext

    from multitask.runpod.client import RunPod
    from multitask.runpod.offers import usable
    from multitask.runpod.options import Options
    from multitask.runpod.up import quote

    resolved, run = _spec_and_run(spec, out, data_dir, sample)
    options = Options("", _names(shapes, spec, resolved), max_cost, max_hours, volume, price=price)
    with RunPod() if os.environ.get("RUNPOD_API_KEY") else nullcontext() as service:
        found = quote(resolved, run, options, service=service, say=_say)
    _show(found, options)
    usable(found, max_cost=max_cost, volume=volume or "to be made")


@runpod.command()
def up(
    spec: SpecOrRun,
    out: OutPath = None,
    data_dir: DataDir = None,
    sample: Sample = False,
    shapes: Shapes = None,
    max_cost: MaxCost = None,
    max_hours: MaxHours = None,
    volume: Volume = None,
    price: Price = None,
    image: Annotated[
        str, typer.Option(envvar="MULTITASK_IMAGE", help="The container image (docs/runpod.md).")
    ] = "",
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SECRET", help="Set a variable from a secret of your account."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="Set a variable; without a value, from here."),
    ] = None,
    data_center: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Where, such as US-KS-2.")
    ] = None,
    min_cuda: Annotated[
        str,
        typer.Option(help="Lowest CUDA version of a single machine's host; '' for any."),
    ] = "13.0",
    download_model: Annotated[
        bool, typer.Option("--download-model", help="Fetch the trained adapter or model too.")
    ] = False,
    retries: Annotated[int, typer.Option(min=0, help="New machines in place of dead ones.")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave once training has started.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not remove the machines; their deadline does.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Rent anew where machines ended by themselves.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Spend without asking.")] = False,
) -> None:
    """Rent machines, train, evaluate, fetch the results, remove the machines.

    They are removed in every case: success, failure, Ctrl-C (once: save a checkpoint first; twice:
    at once). When this program dies, the machines end by themselves. Started again, it takes up
    the machines of the first start.

    Example: multitask runpod up multitask.yaml --volume abc123 --secret HF_TOKEN=hf --max-cost 60
    """
    from multitask.runpod.options import Options

    resolved, run = _spec_and_run(spec, out, data_dir, sample)
    options = Options(
        image=_image(image),
        shapes=_names(shapes, spec, resolved),
        max_cost=max_cost,
        max_hours=max_hours,
        volume=volume,
        data_centers=tuple(data_center or ()),
        price=price,
        env=_variables(secret or [], env or []),
        min_cuda=min_cuda or None,
        detach=detach,
        keep=keep,
        download_model=download_model,
        retries=retries,
        again=again,
    )
    _up(resolved, run, options, yes=yes)


def _up(spec: Spec, run: Path, options: Options, *, yes: bool) -> None:
    from multitask.runpod.client import RunPod
    from multitask.runpod.show import Terminal
    from multitask.runpod.signals import Signals
    from multitask.runpod.up import Surroundings, up
    from multitask.terminal import progress_bar

    def ask(found: list[Offer]) -> bool:
        _show(found, options)
        return yes or typer.confirm("Rent these machines?", default=False, err=True)

    signals = Signals()
    with RunPod(pause=signals.pause) as service, progress_bar() as bar:
        around = Surroundings(
            service, ask, bar.say, lambda record: Terminal(bar, record), bar.update, signals
        )
        outcome = up(spec, run, options, around)
    record = outcome.record
    if outcome.ending is None:
        typer.echo(
            f"{record.name} trains on, and ends by itself at the latest {_clock(record.deadline)}\n"
            f"next: multitask runpod status {run}; multitask runpod up {run} waits and fetches"
        )
        return
    kept = f"; kept until {_clock(record.deadline)}" if record.state != "gone" else ""
    typer.echo(
        f"done for about ${record.total():,.2f}{kept}; {len(outcome.files)} files in {run}\n"
        f"report: {run / 'report.html'}"
    )


@runpod.command()
def status(run: RunPath) -> None:
    """How a run's machines and its training are.

    Example: multitask runpod status runs/first
    """
    from multitask.runpod.account import billed, job_status, rented
    from multitask.runpod.client import RunPod
    from multitask.runpod.control import UnreachableError

    record = rented(run)
    with RunPod() as service:
        rows = [row for row in billed(service, [record.id]) if row.found.name == record.name]
    typer.echo(f"{record.name}: {record.shape}, at most ${record.max_cost:,.2f}")
    if not rows:
        ended = f" (the job: {record.outcome})" if record.outcome else ""
        typer.echo(f"no machines any more: nothing is billed{ended}")
        return
    for row in rows:
        typer.echo(f"{row.found.kind} {row.found.id}: {row.state}, ${row.usd_per_hour:.2f}/h")
    typer.echo(f"about ${record.total():,.2f} so far; ends by itself {_clock(record.deadline)}")
    if not record.primary:
        typer.echo("not ready yet")
        return
    try:
        job = job_status(record)
    except UnreachableError as error:
        typer.echo(f"the job: {error}")
        return
    loss = "" if job["loss"] is None else f", loss {job['loss']:.3f}"
    typer.echo(
        f"the job: {job['phase']}, step {job['step']} of {job['steps'] or '?'}{loss}, "
        f"{job['nodes_ready']} of {job['nodes']} nodes, {job['restarts']} restarts"
    )
    if job["error"]:
        typer.echo(f"error: {job['error']}")


@runpod.command()
def logs(
    run: RunPath,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
) -> None:
    """The log of a run's job on its machines.

    Example: multitask runpod logs -f runs/first
    """
    import time

    from multitask.errors import InputError
    from multitask.runpod.account import follow_log, rented

    record = rented(run)
    if record.state == "gone" or not record.primary:
        raise InputError(
            "there is no machine to ask", where=record.name, fix=f"see {run / 'logs'} for its logs"
        )

    def write(text: str) -> None:
        typer.echo(text, nl=False)

    follow_log(record, follow=follow, write=write, pause=time.sleep, poll=3.0)


@runpod.command()
def down(
    target: Annotated[
        str | None, typer.Argument(metavar="RUN|NAME|ID", help="A run, or what `ls` shows.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that `ls` shows.")] = False,
) -> None:
    """Remove machines at once, and see that they are gone. What they have not saved is lost.

    Example: multitask runpod down runs/first
    """
    import time

    from multitask.errors import InputError
    from multitask.runpod.account import billed, take_down
    from multitask.runpod.client import RunPod
    from multitask.runpod.options import Timing

    if (target is None) != everything:
        raise InputError("give a run, a name or an id, or --all", where="multitask runpod down")
    with RunPod() as service:
        targets = [target] if target else [row.found.id for row in billed(service)]
        gone = [name for t in targets for name in take_down(service, t, Timing(), time.sleep)]
    for name in gone:
        typer.echo(f"{name} is gone")
    if not gone:
        typer.echo("nothing was there: nothing is billed for it")


@runpod.command("ls")
def list_(
    runs: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of runs, whose records count too.")
    ] = Path("runs"),
) -> None:
    """Everything of multitask's that is billed now.

    Example: multitask runpod ls
    """
    import time

    from rich.console import Console
    from rich.table import Table

    from multitask.runpod.account import billed
    from multitask.runpod.before import records_under
    from multitask.runpod.client import RunPod

    known = [record.id for record in records_under(runs, _say) if record.id]
    with RunPod() as service:
        rows = billed(service, known)
    if not rows:
        typer.echo("nothing is billing")
        return
    now = time.time()
    table = Table("name", "id", "shape", "state", "USD/h", "since", "cost so far")
    for row in rows:
        table.add_row(
            row.found.name,
            row.found.id,
            row.shape,
            row.state,
            f"{row.usd_per_hour:.2f}",
            _clock(row.since),
            f"${row.cost(now):,.2f}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)
    total = sum(row.usd_per_hour for row in rows)
    typer.echo(f"${total:.2f} an hour; `multitask runpod down NAME` removes, `down --all` all")


def _spec_and_run(
    spec: Path, out: Path | None, data_dir: Path | None, sample: bool
) -> tuple[Spec, Path]:
    if spec.is_dir():
        from multitask.run import Run

        return read_spec(Run.open(spec).root, None, False), spec
    resolved = read_spec(spec, data_dir, sample)
    return resolved, default_out(resolved, out)


def _names(shapes: str | None, spec: Path, resolved: Spec) -> tuple[str, ...] | None:
    if shapes:
        return tuple(name.strip() for name in shapes.split(",") if name.strip())
    # A built run with a model of its own cannot be built for another shape.
    inside = spec.is_dir() and Path(resolved.model).is_absolute()
    return (resolved.cluster,) if inside else None


def _image(image: str) -> str:
    from multitask.errors import InputError

    if not image:
        raise InputError(
            "which container image?",
            where="--image",
            fix="build docker/ and push it to a registry, then: export MULTITASK_IMAGE=OWNER/NAME:"
            "TAG (docs/runpod.md)",
        )
    return image


def _variables(secrets: list[str], plain: list[str]) -> dict[str, str]:
    from multitask.errors import InputError
    from multitask.runpod.api import SECRET

    found: dict[str, str] = {}
    for item in secrets:
        name, _, secret = item.partition("=")
        if not name or not secret:
            raise InputError(f"{item!r} is not NAME=SECRET", where="--secret")
        found[name] = SECRET.format(name=secret)
    for item in plain:
        name, given, value = item.partition("=")
        if not given:
            value = os.environ.get(name, "")
            if not value:
                raise InputError(f"{name} is not set here", where="--env")
        found[name] = value
    return found


def _show(found: list[Offer], options: Options) -> None:
    from rich.console import Console

    from multitask.runpod.table import plan_notes, plan_table

    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    console.print(plan_table(found, options.max_cost))
    for note in plan_notes(found, volume=options.volume, max_hours=options.max_hours):
        console.print(f"- {note}", highlight=False, soft_wrap=True)


def _say(message: str) -> None:
    typer.echo(f"- {message}", err=True)


def _clock(moment: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
