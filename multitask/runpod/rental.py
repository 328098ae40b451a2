"""One rented machine or cluster, from the request to the confirmed removal."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from multitask.machine import protocol
from multitask.run import Run
from multitask.runpod import api
from multitask.runpod.bundle import SCRATCH, Bundle, machine_name, run_id
from multitask.runpod.client import RunPod
from multitask.runpod.control import Control, RefusedError, UnreachableError, control_url
from multitask.runpod.follow import Display, Ending, Follower
from multitask.runpod.machines import remove, rent, wait_until_ready
from multitask.runpod.offers import RESERVE_SECONDS, Offer
from multitask.runpod.options import Options
from multitask.runpod.record import Record, RecordFile
from multitask.runpod.signals import Signals
from multitask.runpod.transfer import Patience, Progress, download, upload

_LOOKS = 30
_PORTS = (f"{protocol.DEFAULT_PORT}/http", "8888/http", "22/tcp")


def new_record(
    run: Run,
    bundle: Bundle,
    offer: Offer,
    options: Options,
    *,
    max_cost: float,
    spent: float,
    begun: float,
) -> Record:
    """Describe what is about to be rented.

    Args:
        run: The built run.
        bundle: Its files.
        offer: The shape.
        options: The user's choices.
        max_cost: USD that the whole run may cost.
        spent: USD of machines before this one.
        begun: Unix time at which the first of them was asked for.
    """
    now = time.time()
    seconds = (max_cost - spent) / offer.usd_per_hour * 3600
    if options.max_hours is not None:
        seconds = min(seconds, begun + options.max_hours * 3600 - now)
    identity = run_id(run, bundle)
    return Record(
        run_id=identity,
        name=machine_name(identity),
        kind=offer.kind,
        id="",
        shape=offer.shape,
        nodes=offer.cluster.nodes,
        gpus=offer.cluster.gpus_per_node,
        gpu=offer.gpu,
        token=secrets.token_urlsafe(32),
        bundle=bundle.sha256,
        price=offer.usd_per_hour,
        max_cost=max_cost,
        created=now,
        deadline=now + max(0.0, seconds - RESERVE_SECONDS),
        image=options.image,
        volume=options.volume,
        detached=options.detach,
        keep=options.keep,
        spent=spent,
    )


def environment(record: Record, options: Options, api_url: str) -> dict[str, str]:
    """Variables of the machines: the job, its limits, and what the user adds."""
    timing = options.timing
    # What the machine may spend ends before the limit, like its time.
    reserve = RESERVE_SECONDS / 3600 * record.price
    most = max(0.0, record.max_cost - record.spent - reserve)
    grace = record.deadline - record.created if record.keep else timing.grace
    job = {
        protocol.ENV_ROLE: "node" if record.kind == "cluster" else "pod",
        protocol.ENV_RUN_ID: record.run_id,
        protocol.ENV_NAME: record.name,
        protocol.ENV_VOLUME: protocol.DEFAULT_VOLUME,
        protocol.ENV_BUNDLE: record.bundle,
        protocol.ENV_TOKEN: record.token,
        protocol.ENV_DEADLINE: f"{record.deadline:.0f}",
        protocol.ENV_STARTED: f"{record.created:.0f}",
        protocol.ENV_PRICE: f"{record.price:.4f}",
        protocol.ENV_MAX_COST: f"{most:.4f}",
        protocol.ENV_LOST_CLIENT: "0" if record.detached else f"{timing.lost_client:.0f}",
        protocol.ENV_GRACE: f"{grace:.0f}",
        protocol.ENV_PORT: str(protocol.DEFAULT_PORT),
        protocol.ENV_API_URL: api_url,
    }
    return {**options.env, **job}


def request_body(
    record: Record, offer: Offer, options: Options, service: RunPod, data_centers: tuple[str, ...]
) -> dict[str, object]:
    """What is sent to rent it."""
    shared = api.container(
        name=record.name,
        image=options.image,
        env=environment(record, options, service.url),
        disk_gb=offer.disk_gb,
        ports=_PORTS,
        data_centers=data_centers,
        volume=options.volume,
        volume_path=protocol.DEFAULT_VOLUME,
    )
    if record.kind == "cluster":
        return api.cluster_request(shared, record.gpu, record.gpus, record.nodes)
    return api.pod_request(shared, record.gpu, record.gpus, options.min_cuda)


class Rental:
    """A machine or cluster of one run; every step is written to the record first."""

    def __init__(
        self,
        service: RunPod,
        record: Record,
        file: RecordFile,
        options: Options,
        signals: Signals,
        display: Callable[[Record], Display],
        progress: Progress,
    ) -> None:
        """Take up the job of ``record``."""
        self.record, self._file = record, file
        self._service, self._options, self._signals = service, options, signals
        self._display, self._progress = display(record), progress
        backoff = options.timing.poll / 5
        self._patience = Patience(signals, backoff)
        # The first signal has asked for a checkpoint, which is fetched.
        self._fetching = Patience(signals, backoff, allowed=1)

    def create(self, offer: Offer, data_centers: tuple[str, ...]) -> None:
        """Rent it.

        Raises:
            NoCapacityError: It was not placed.
        """
        self._file.write(self.record)
        body = request_body(self.record, offer, self._options, self._service, data_centers)
        found = rent(self._service, self.record, body, self._options.timing, self._signals.pause)
        self.record = self._file.update(self.record, id=found, state="created")

    def wait(self) -> None:
        """Wait until it can be talked to; see :func:`wait_until_ready`."""
        said: set[str] = set()

        def show(text: str) -> None:
            if text not in said:
                said.add(text)
                self._display.say(f"{self.record.name}: {text}")

        timing = self._options.timing
        pod = wait_until_ready(self._service, self.record, self._signals, timing, show)
        self.record = self._file.update(self.record, primary=pod)

    @contextmanager
    def _control(self) -> Iterator[Control]:
        with Control(control_url(self.record.primary), self.record.token) as control:
            yield control

    def start(self, bundle: Bundle) -> None:
        """Upload what is missing, and start the job."""
        with self._control() as control:

            def send() -> bool:
                # A job that an earlier command has started takes no files any more.
                if control.status()["phase"] in ("waiting", "uploading"):
                    upload(control, bundle, self._patience, self._progress)
                return True

            self._patience.through(send)

            def begin() -> bool:
                control.start(bundle.sha256)
                return True

            self._patience.through(begin)
        self.record = self._file.update(self.record, state="started")

    def follow(self) -> Ending:
        """Follow it to its end."""
        with self._control() as control:
            ending = Follower(
                control,
                self._service,
                self.record,
                self._signals,
                self._options.timing,
                self._display,
            ).run()
        self.record = self._file.update(self.record, state="ended", outcome=ending.phase)
        return ending

    def fetch(self, bundle: Bundle, root: Path, *, model: bool) -> list[str]:
        """Download results, then tell the machine that it has served."""
        with self._control() as control:
            found: list[protocol.FileEntry] = []

            sent = {file["path"] for file in bundle.files} | {protocol.BUNDLE_FILE}
            stopped = self.record.outcome != "done"
            looks = iter(range(_LOOKS))

            def look() -> bool:
                new = [entry for entry in control.files() if entry["path"] not in sent]
                found[:] = results(new, model=model, stopped=stopped)
                # Large files are hashed for a while; one that never is, is left there.
                return all(entry["complete"] for entry in found) or next(looks, None) is None

            self._fetching.through(look)
            paths = download(control, found, root, self._fetching, self._progress)
            if not self.record.keep:
                self._release(control)
        return paths

    def _release(self, control: Control) -> None:
        try:
            control.release()
        except (RefusedError, UnreachableError):
            return  # it is removed from here next

    def remove(self) -> None:
        """Remove it, and see that it is gone.

        Raises:
            StillBilledError: That could not be confirmed.
        """
        remove(self._service, self.record, self._options.timing, self._signals.pause)
        self.record = self._file.update(self.record, state="gone", removed=time.time())
        self._display.say(
            f"{self.record.name} is removed, and RunPod confirms it; it cost about "
            f"${self.record.cost():,.2f}"
        )


def results(
    entries: list[protocol.FileEntry], *, model: bool, stopped: bool
) -> list[protocol.FileEntry]:
    """Which of the machine's files are worth a download.

    Args:
        entries: The files that were not sent from here.
        model: Whether the trained model is wanted.
        stopped: Whether the training did not reach its end, so that its newest checkpoint is all
            there is of the model.

    Returns:
        Evaluations, reports and logs; with ``model`` also the final model, or that checkpoint.
    """
    newest = max((_checkpoint(entry["path"]) for entry in entries), default=-1)

    def keep(path: str) -> bool:
        if not path.startswith("model/"):
            parts = path.split("/")
            return parts[0] not in SCRATCH and not any(part.startswith(".") for part in parts)
        step = _checkpoint(path)
        return model and (step < 0 or (stopped and step == newest))

    return [entry for entry in entries if keep(entry["path"])]


def _checkpoint(path: str) -> int:
    """Step of the checkpoint that a file belongs to; -1 for other files."""
    parts = path.split("/")
    if len(parts) < 3 or parts[0] != "model" or not parts[1].startswith("checkpoint-"):
        return -1
    step = parts[1].removeprefix("checkpoint-")
    return int(step) if step.isdigit() else -1
