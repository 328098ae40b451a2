"""What a client and a rented machine say to each other: variables, paths, phases, messages.

The client gives the machine its job in environment variables, uploads the files of a run to the
control server of node 0, starts the job, follows it, fetches results and releases the machine.

The bundle is the list of files that a training needs. Its canonical JSON (:func:`bundle_json`) is
itself uploaded, first, as ``bundle.json``; the SHA-256 of those bytes is the bundle's hash, which
the machine was given when it was created. So a machine accepts the files of its own job only:

1. ``PUT /files/bundle.json`` must have the hash in :data:`ENV_BUNDLE`;
2. ``PUT /files/<path>`` must be a file of the list, with the size and hash that the list says;
3. ``POST /start`` checks that all are there.

Every request but ``GET /health`` needs ``Authorization: Bearer <token>``. A refusal has a JSON
body :class:`Refusal`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final, Literal, NotRequired, TypedDict

# --- the job, from the client to the machine, as environment variables -----------------------

ENV_ROLE: Final = "MULTITASK_ROLE"
ENV_RUN_ID: Final = "MULTITASK_RUN_ID"
ENV_NAME: Final = "MULTITASK_NAME"
"""Name of the pod or cluster on the platform, by which the machine finds its own cluster."""
ENV_VOLUME: Final = "MULTITASK_VOLUME"
ENV_BUNDLE: Final = "MULTITASK_BUNDLE_SHA256"
ENV_TOKEN: Final = "MULTITASK_TOKEN"  # noqa: S105  # the name of a variable
ENV_DEADLINE: Final = "MULTITASK_DEADLINE"
"""Unix time in seconds, after which the machine stops and removes itself."""
ENV_STARTED: Final = "MULTITASK_STARTED"
"""Unix time in seconds at which the bill began."""
ENV_PRICE: Final = "MULTITASK_PRICE_PER_HOUR"
"""USD an hour of all machines of the job together."""
ENV_MAX_COST: Final = "MULTITASK_MAX_COST"
"""USD, at which the machine stops and removes itself."""
ENV_LOST_CLIENT: Final = "MULTITASK_LOST_CLIENT_SECONDS"
"""Seconds without an authenticated request until the machine stops; absent or 0: detached."""
ENV_GRACE: Final = "MULTITASK_GRACE_SECONDS"
"""Seconds that a machine waits, after the job has ended, to be released."""
ENV_PORT: Final = "MULTITASK_CONTROL_PORT"
ENV_API_URL: Final = "MULTITASK_API_URL"
ENV_POD_ID: Final = "RUNPOD_POD_ID"
ENV_API_KEY: Final = "RUNPOD_API_KEY"

DEFAULT_VOLUME: Final = "/workspace/data"
DEFAULT_API_URL: Final = "https://api.runpod.io/v2"
"""The base of the platform's paths: ``<base>/pods/{id}``, ``<base>/clusters/{id}``."""
DEFAULT_PORT: Final = 8000
DEFAULT_GRACE_SECONDS: Final = 900

Role = Literal["pod", "node", "serverless"]
ROLES: Final[tuple[Role, ...]] = ("pod", "node", "serverless")

# --- the control server ----------------------------------------------------------------------

HEALTH_PATH: Final = "/health"
STATUS_PATH: Final = "/status"
FILES_PATH: Final = "/files"
START_PATH: Final = "/start"
EVENTS_PATH: Final = "/events"
LOGS_PATH: Final = "/logs"
STOP_PATH: Final = "/stop"
RELEASE_PATH: Final = "/release"

NEXT_HEADER: Final = "X-Next"
"""Header of ``GET /logs``: the byte to ask for next."""

# The platform's HTTP proxy cuts bodies over 100 MB and requests over 100 s.
MAX_CHUNK: Final = 8 * 2**20
"""Bytes of one ``PUT``."""
MAX_WAIT: Final = 25.0
"""Seconds that ``GET /events`` waits at most."""
MAX_EVENTS: Final = 1000
"""Events in one answer at most; ask again from ``next``."""
MAX_LOG: Final = 2**20
"""Bytes of log in one answer at most."""
MAX_BUNDLE_FILES: Final = 10_000
MAX_BUNDLE_BYTES: Final = 200 * 2**30

Phase = Literal[
    "waiting",  # for the client
    "uploading",
    "checking",
    "training",
    "evaluating",
    "reporting",
    "pushing",
    "done",
    "failed",
    "stopping",
    "stopped",
]
FINAL_PHASES: Final[frozenset[Phase]] = frozenset({"done", "failed", "stopped"})

EventKind = Literal["phase", "progress", "metrics", "log", "checkpoint", "restart", "error"]


class Event(TypedDict):
    """One event: what every kind has, and what some have.

    ``phase``: ``phase``. ``progress``: ``step, steps, epoch, loss``. ``metrics``: ``step`` and
    ``tasks`` of an evaluation in the training. ``log``: ``message``. ``checkpoint``: ``step`` and
    ``path`` in the run. ``restart``: ``attempt, step, message``. ``error``: ``message``.
    """

    time: float
    kind: EventKind
    phase: NotRequired[Phase]
    step: NotRequired[int]
    steps: NotRequired[int]
    epoch: NotRequired[float]
    loss: NotRequired[float]
    tasks: NotRequired[dict[str, dict[str, float]]]
    path: NotRequired[str]
    attempt: NotRequired[int]
    message: NotRequired[str]


class Health(TypedDict):
    """Answer of ``GET /health``, the one request without a token."""

    ok: bool
    version: str


class Status(TypedDict):
    """Answer of ``GET /status``.

    Attributes:
        phase: Where the job stands.
        run_id: Its name.
        bundle_sha256: The bundle that this machine was created for.
        nodes_ready: Nodes that have come up on the volume, or passed the checks since.
        nodes: How many there should be.
        step: Optimizer step of the training; 0 before the first.
        steps: Its last one; 0 before it is known.
        epoch: Epochs trained.
        loss: The last training loss.
        tasks: The newest metrics of each task.
        attempt: Number of the launch, from 1; 0 before the first.
        restarts: Launches after the first.
        error: Why the job failed or was stopped.
        exit_code: Of the command that failed; 0 when done; None while it runs.
        deadline: Unix time of the machine's end; None without one.
        cost_so_far: USD since the bill began; None when the price is not known.
        events: How many events there are.
    """

    phase: Phase
    run_id: str
    bundle_sha256: str
    nodes_ready: int
    nodes: int
    step: int
    steps: int
    epoch: float | None
    loss: float | None
    tasks: dict[str, dict[str, float]]
    attempt: int
    restarts: int
    error: str | None
    exit_code: int | None
    deadline: float | None
    cost_so_far: float | None
    events: int


class FileEntry(TypedDict):
    """A file of the run on the machine; ``sha256`` is that of a complete file, else empty."""

    path: str
    size: int
    sha256: str
    complete: bool


class FileList(TypedDict):
    """Answer of ``GET /files``; an incomplete file's ``size`` is what has been received."""

    files: list[FileEntry]


class Received(TypedDict):
    """Answer of ``PUT /files/<path>``, also with 409: go on at byte ``received``."""

    received: int


class StartRequest(TypedDict):
    """Body of ``POST /start``."""

    bundle_sha256: str


class StopRequest(TypedDict):
    """Body of ``POST /stop``."""

    reason: str


class EventPage(TypedDict):
    """Answer of ``GET /events``: ask for ``from=next`` next."""

    events: list[Event]
    next: int


class Refusal(TypedDict):
    """Body of a refused request."""

    error: str
    missing: NotRequired[list[str]]
    received: NotRequired[int]


# --- the bundle ------------------------------------------------------------------------------

BUNDLE_FILE: Final = "bundle.json"


class BundleFile(TypedDict):
    """A file of a bundle."""

    path: str
    size: int
    sha256: str


def bundle_json(files: Iterable[BundleFile]) -> bytes:
    """Write the list of a bundle's files canonically: one list has one form.

    Returns:
        JSON without spaces, ASCII only, keys and paths sorted: the content of ``bundle.json``.
    """
    rows = [{"path": f["path"], "sha256": f["sha256"], "size": f["size"]} for f in files]
    rows.sort(key=lambda row: str(row["path"]))
    return json.dumps(rows, separators=(",", ":"), sort_keys=True).encode("ascii")


def bundle_sha256(files: Iterable[BundleFile]) -> str:
    """The bundle's hash: SHA-256 of :func:`bundle_json`, in hexadecimal."""
    return hashlib.sha256(bundle_json(files)).hexdigest()


def parse_bundle(content: bytes) -> list[BundleFile]:
    """Read ``bundle.json``.

    Raises:
        ValueError: It is not the canonical list of valid, distinct files.
    """
    rows: Any = json.loads(content)
    if not isinstance(rows, list) or len(rows) > MAX_BUNDLE_FILES:
        raise ValueError(f"a bundle is a list of at most {MAX_BUNDLE_FILES} files")
    files = [_bundle_file(row) for row in rows]
    if len({file["path"] for file in files}) != len(files):
        raise ValueError("a path is named twice")
    if sum(file["size"] for file in files) > MAX_BUNDLE_BYTES:
        raise ValueError(f"the files have more than {MAX_BUNDLE_BYTES} bytes")
    if bundle_json(files) != content:
        raise ValueError("the list is not in its canonical form")
    return files


def _bundle_file(row: object) -> BundleFile:
    if not isinstance(row, dict) or set(row) != {"path", "sha256", "size"}:
        raise ValueError("a file of a bundle has the keys path, sha256 and size")
    path, digest, size = row["path"], row["sha256"], row["size"]
    if not isinstance(path, str):
        raise ValueError("a path is text")
    if not isinstance(digest, str) or re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise ValueError(f"{path}: sha256 is 64 hexadecimal digits")
    if type(size) is not int or size < 0:
        raise ValueError(f"{path}: size is a number of bytes")
    return {"path": check_path(path), "size": size, "sha256": digest}


def check_path(path: str) -> str:
    """Return a path inside a run directory, as the wire has it.

    Raises:
        ValueError: It is empty, absolute, not normal (``a//b``, ``./a``), leaves the directory,
            or has characters that a path of ours never has.
    """
    parts = path.split("/")
    if (
        not path
        or len(path) > 512
        or any(part in ("", ".", "..") for part in parts)
        or not all(character.isprintable() and character != "\\" for character in path)
        or str(PurePosixPath(path)) != path
    ):
        raise ValueError(f"{path[:100]!r} is no path inside a run directory")
    return path


def check_run_id(run_id: str) -> str:
    """Return the name of a run, which is also that of its folder.

    Raises:
        ValueError: It is not 1 to 48 of ``a-z``, ``0-9`` and ``-``, with ``-`` only inside.
    """
    if len(run_id) > 48 or re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", run_id) is None:
        raise ValueError(f"{run_id[:100]!r} is no run id: 1 to 48 of a-z, 0-9 and '-' inside")
    return run_id
