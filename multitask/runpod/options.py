"""What a user chooses for a rented run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from multitask.machine.protocol import DEFAULT_GRACE_SECONDS


@dataclass(frozen=True)
class Timing:
    """Seconds of waiting.

    Attributes:
        ready: From renting until the control server answers.
        poll: Between two looks at something that changes slowly.
        events: How long one request for events waits on the machine.
        platform: Between two looks at the machines themselves while their job answers.
        lost_client: Without a request from here, after which the machine stops; see ``detach``.
        grace: That the machine waits, when it has ended, for its results to be fetched.
        silence: Without an answer of the control server, or with a dead node, after which the
            machines are given up.
        stop: For saving a checkpoint after an interrupt.
        gone: For a removal to be confirmed.
    """

    ready: float = 1200.0
    poll: float = 5.0
    events: float = 5.0
    platform: float = 30.0
    lost_client: float = 900.0
    grace: float = DEFAULT_GRACE_SECONDS
    silence: float = 300.0
    stop: float = 600.0
    gone: float = 180.0


@dataclass(frozen=True)
class Options:
    """How a run is rented.

    Attributes:
        image: The container image; its entrypoint is ``multitask machine``.
        shapes: Clusters to try, in order; None: the spec's, then the usual fall-backs.
        max_cost: USD that the run may cost at most; None: twice what is expected.
        max_hours: Hours that the machines may exist; None: what the cost allows.
        volume: Id of a network volume; nodes of a cluster share their checkpoints on it.
        data_centers: Where; none: anywhere, or where the volume is.
        price: USD per GPU and hour, where it is not the list price.
        env: Variables of the machines, such as HF_TOKEN; never written to a file here.
        min_cuda: Lowest CUDA version of a pod's host.
        detach: Leave once the training has been started.
        keep: Do not remove the machines at the end; they end at their deadline.
        download_model: Fetch the trained adapter or model as well.
        retries: New machines after dead ones, within the same limits.
        again: Rent anew for a run whose machines ended by themselves.
        timing: Seconds of waiting.
    """

    image: str
    shapes: tuple[str, ...] | None = None
    max_cost: float | None = None
    max_hours: float | None = None
    volume: str | None = None
    data_centers: tuple[str, ...] = ()
    price: float | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    min_cuda: str | None = None
    detach: bool = False
    keep: bool = False
    download_model: bool = False
    retries: int = 1
    again: bool = False
    timing: Timing = field(default_factory=Timing)
