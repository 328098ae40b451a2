"""What is checked before money is spent, and what was rented before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from multitask.errors import InputError, MultitaskError
from multitask.machine import protocol
from multitask.models import ModelInfo
from multitask.runpod import api
from multitask.runpod.client import RunPod
from multitask.runpod.machines import Found, find, nodes_of
from multitask.runpod.offers import Offer
from multitask.runpod.options import Options
from multitask.runpod.record import FILE, Record, RecordFile
from multitask.spec import Spec


def check_variables(spec: Spec, model: ModelInfo, options: Options) -> None:
    """Refuse a run that would fail on the machine for want of a login.

    Raises:
        InputError: A variable is missing, there are too many, or results would be lost.
    """
    needs = []
    if model.gated:
        needs.append(("HF_TOKEN", f"{spec.model} is gated: its conditions are at {model.gated}"))
    if spec.hub is not None:
        needs.append(("HF_TOKEN", f"the model is pushed to {spec.hub.repo}"))
    if spec.tracking.wandb is not None:
        needs.append(("WANDB_API_KEY", "metrics are sent to Weights & Biases"))
    for name, why in needs:
        if name not in options.env:
            raise InputError(
                f"the machines need {name}: {why}",
                where="--secret",
                fix=f"store it at {api.CONSOLE}/user/secrets and give --secret {name}=SECRET_NAME "
                f"(or --env {name}, which shows it to everyone who may list your pods)",
            )
    if len(options.env) + len(_JOB) > api.MAX_ENV:
        raise InputError(
            f"RunPod takes {api.MAX_ENV} variables, and {len(_JOB)} are the job's", where="--env"
        )
    taken = sorted(set(options.env) & set(_JOB))
    if taken:
        raise InputError(f"{taken[0]} is set by multitask itself", where="--env")
    if options.detach and options.volume is None and spec.hub is None:
        raise InputError(
            "nobody would fetch the results, and they go with the machine",
            where="--detach",
            fix="give --volume, or `hub: {repo: OWNER/NAME}` in the spec",
        )


_JOB = (
    protocol.ENV_ROLE,
    protocol.ENV_RUN_ID,
    protocol.ENV_NAME,
    protocol.ENV_VOLUME,
    protocol.ENV_BUNDLE,
    protocol.ENV_TOKEN,
    protocol.ENV_DEADLINE,
    protocol.ENV_STARTED,
    protocol.ENV_PRICE,
    protocol.ENV_MAX_COST,
    protocol.ENV_LOST_CLIENT,
    protocol.ENV_GRACE,
    protocol.ENV_PORT,
    protocol.ENV_API_URL,
)


def data_centers(service: RunPod, options: Options, offers: list[Offer]) -> tuple[str, ...]:
    """Where machines may be: with a volume, where that is.

    Raises:
        InputError: There is no such volume, it is elsewhere, or too small.
    """
    if options.volume is None:
        return options.data_centers
    volume = service.volume(options.volume)
    if volume is None:
        raise InputError(
            f"the account has no network volume {options.volume!r}",
            where="--volume",
            fix=f"its id is at {api.CONSOLE}/user/storage",
        )
    if options.data_centers and volume.data_center not in options.data_centers:
        raise InputError(
            f"the volume is in {volume.data_center}, and machines must be there as well",
            where="--data-center",
            fix="leave it out, or use another volume",
        )
    found = [o.setup.estimate for o in offers if o.setup is not None]
    needed = max((estimate.disk_gb for estimate in found if estimate is not None), default=0.0)
    if volume.size_gb < needed:
        raise InputError(
            f"the volume has {volume.size_gb} GB, and the run needs about {needed:.0f} GB",
            where="--volume",
            fix="enlarge it in RunPod's console, or keep fewer checkpoints (`checkpoint: {keep: "
            "2}`)",
        )
    return (volume.data_center,)


def existing(service: RunPod, file: RecordFile, *, again: bool) -> Record | None:
    """The machines of an earlier command of this run that still exist; None when there are none.

    Raises:
        MultitaskError: They ended by themselves, so that nobody here knows how.
    """
    record = file.read()
    if record is None or record.state == "gone":
        return None
    found = _still_there(service, record)
    if found is not None:
        return record if record.id else file.update(record, id=found.id, state="created")
    started = record.state in ("started", "ended")
    file.update(record, state="gone", removed=time.time())
    if not started or again:
        return None
    kept = f"its files are on the volume {record.volume}" if record.volume else "its files are gone"
    raise MultitaskError(
        f"{record.name} has ended by itself (its deadline, a lost client, or RunPod), and is not "
        f"billed any more; {kept}",
        where=file.path,
        fix="the same command with --again rents new machines, which go on from what is there",
    )


def _still_there(service: RunPod, record: Record) -> Found | None:
    found = find(service, record.name)
    if found:
        return next((f for f in found if f.id == record.id), found[0])
    if record.id and nodes_of(service, record):
        return Found(record.kind, record.id, record.name)
    return None


def adopt(service: RunPod, planned: Record, file: RecordFile) -> Record | None:
    """Machines of the same run that this directory has no record of.

    What is needed to talk to them is in their own variables.

    Returns:
        Their record, written; None when there are none.

    Raises:
        MultitaskError: They are there, and cannot be talked to.
    """
    found = find(service, planned.name)
    if not found:
        return None
    first = Record(**(vars(planned) | {"kind": found[0].kind, "id": found[0].id}))
    pods = nodes_of(service, first)
    env = pods[0].env if pods else {}
    try:
        return file.write(
            Record(
                **vars(first)
                | {
                    "token": env[protocol.ENV_TOKEN],
                    "created": float(env[protocol.ENV_STARTED]),
                    "deadline": float(env[protocol.ENV_DEADLINE]),
                    "price": float(env[protocol.ENV_PRICE]),
                    "nodes": max(len(pods), 1),
                    "state": "created",
                }
            )
        )
    except (KeyError, ValueError):
        raise MultitaskError(
            f"{planned.name} exists already and is billed, and this directory has no record of it",
            fix=f"start the command where it was started first, or remove it: multitask runpod "
            f"down {planned.name}",
        ) from None


def records_under(folder: Path, say: Callable[[str], object]) -> list[Record]:
    """The records of the runs in a folder of runs; ``say`` is told of damaged ones."""
    found = []
    for path in sorted(folder.glob(f"*/{FILE}")):
        try:
            record = RecordFile(path.parent).read()
        except InputError as error:
            say(f"warning: {error}")
            continue
        if record is not None:
            found.append(record)
    return found
