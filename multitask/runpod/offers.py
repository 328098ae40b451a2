"""What can be rented for a run: shapes in order, each with the estimator's time and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from multitask.cluster import Cluster, load_cluster
from multitask.data.workload import Workload
from multitask.errors import InputError
from multitask.models import ModelInfo
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.runpod import api
from multitask.spec import Spec

USUAL = ("3x4-a100-80gb", "2x8-a100-80gb", "1x8-a100-80gb")
"""Twelve GPUs as three nodes; RunPod's documents list clusters with eight GPUs a node only, so two
such nodes come next, and one, which needs no network between nodes, last."""

AFTER_HOURS = 0.25
"""Evaluation, report and upload after the training; an allowance."""

RESERVE_SECONDS = 300
"""The machine's end lies this much before the limit: that long its guard waits, should all else
fail, until it removes the machine (:data:`multitask.machine.limits.LATE_SECONDS`)."""

_MARGIN_SECONDS = 900.0
_MARGIN_SHARE = 0.1

_IMAGE_GB = 40
_ROOM = 1.2
_SAFETY = 2.0


@dataclass(frozen=True)
class Offer:
    """A shape for a run.

    Attributes:
        cluster: The machines.
        gpu: RunPod's id of the GPU type.
        usd_per_hour: All of it, container disks included.
        price: Where the price is from, with its date.
        disk_gb: Container disk of each node.
        setup: How the run would be trained on it; None when it cannot be.
        hours: Expected, from renting to removal; None where the model's sizes are not known.
        problem: Why it cannot be used; empty when it can.
    """

    cluster: Cluster
    gpu: str
    usd_per_hour: float
    price: str
    disk_gb: int
    setup: Setup | None
    hours: float | None
    problem: str = ""

    @property
    def shape(self) -> str:
        """The cluster's name."""
        return self.cluster.name

    @property
    def usd(self) -> float | None:
        """Expected cost of the whole run."""
        return None if self.hours is None else self.hours * self.usd_per_hour

    @property
    def reserve_usd(self) -> float:
        """What the reserve at the end costs."""
        return RESERVE_SECONDS / 3600 * self.usd_per_hour

    @property
    def kind(self) -> api.Kind:
        """Whether it is rented as a pod or as a cluster."""
        return "pod" if self.cluster.nodes == 1 else "cluster"

    @property
    def needed(self) -> float | None:
        """USD that must be allowed for the run to reach its end.

        The machine begins to stop a tenth of its time, at most 15 min, before its end
        (:mod:`multitask.machine.limits`), so that a checkpoint is saved.
        """
        if self.usd is None:
            return None
        share = _MARGIN_SHARE / (1 - _MARGIN_SHARE)
        margin = min(_MARGIN_SECONDS / 3600 * self.usd_per_hour, share * self.usd)
        return self.usd + margin + self.reserve_usd

    def limit(self, max_cost: float | None) -> float | None:
        """USD that it may cost at most: what was given, else twice the expected, rounded up."""
        if max_cost is not None or self.usd is None:
            return max_cost
        return float(math.ceil(_SAFETY * self.usd + self.reserve_usd))

    def at_price(self, usd_per_hour: float, source: str) -> Offer:
        """The same at another price."""
        return replace(self, usd_per_hour=usd_per_hour, price=source)


def shapes_for(spec: Spec, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the clusters to try, in order.

    A spec for one machine falls back to one machine, since several need a volume between them.
    """
    if wanted:
        return wanted
    if spec.cluster in USUAL:
        return USUAL[USUAL.index(spec.cluster) :]
    cluster = load_cluster(spec.cluster)
    return (spec.cluster, *(USUAL if cluster.nodes > 1 else USUAL[-1:]))


def offers(
    spec: Spec,
    model: ModelInfo,
    workload: Workload,
    shapes: tuple[str, ...],
    *,
    prices: Mapping[str, float] | None = None,
    price: float | None = None,
) -> list[Offer]:
    """Estimate a run on each shape.

    Args:
        spec: The user's choices.
        model: What is known of the model.
        workload: Rows and tokens.
        shapes: Names of clusters, or paths of their files.
        prices: RunPod's list prices by GPU type; None: those of ``configs/clusters``.
        price: USD per GPU and hour, where the user pays another.

    Raises:
        InputError: There is no such cluster, or RunPod has no such machine.
    """
    return [
        _offer(spec.model_copy(update={"cluster": shape}), model, workload, prices or {}, price)
        for shape in shapes
    ]


def _offer(
    spec: Spec,
    model: ModelInfo,
    workload: Workload,
    prices: Mapping[str, float],
    price: float | None,
) -> Offer:
    cluster = load_cluster(spec.cluster)
    gpu = gpu_id(cluster)
    each, source = _price(cluster, gpu, prices, price)
    setup, problem = None, ""
    try:
        setup = decide(spec, model, workload, refuse=False)
    except InputError as error:
        problem = str(error).splitlines()[0]
    found = None if setup is None else setup.estimate
    if found is not None and found.fits is False:
        problem = found.why_not
    disk = math.ceil(_IMAGE_GB + _ROOM * (0.0 if found is None else found.disk_gb))
    storage = cluster.nodes * disk * api.DISK_USD_PER_GB_MONTH / api.HOURS_PER_MONTH
    return Offer(
        cluster=cluster,
        gpu=gpu,
        usd_per_hour=each * cluster.world_size + storage,
        price=source,
        disk_gb=disk,
        setup=setup,
        hours=None if found is None else found.hours + AFTER_HOURS,
        problem=problem,
    )


def gpu_id(cluster: Cluster) -> str:
    """RunPod's id of a cluster's GPU.

    Raises:
        InputError: RunPod has none, or the cluster is too large for it.
    """
    found = api.GPU_IDS.get(cluster.gpu or "")
    if found is None:
        raise InputError(
            f"RunPod rents no '{cluster.gpu or cluster.name}' that this version knows",
            where=f"cluster '{cluster.name}'",
            fix=f"its GPUs here: {', '.join(sorted(api.GPU_IDS))}; choose with --shapes",
        )
    if cluster.nodes > api.MAX_CLUSTER_PODS:
        raise InputError(
            f"RunPod's clusters have at most {api.MAX_CLUSTER_PODS} nodes",
            where=f"cluster '{cluster.name}'",
        )
    return found


def _price(
    cluster: Cluster, gpu: str, prices: Mapping[str, float], price: float | None
) -> tuple[float, str]:
    """USD per GPU and hour, and who says so."""
    if price is not None:
        return price, "as given with --price"
    if gpu in prices:
        return prices[gpu], "RunPod's catalogue, today"
    if cluster.price is None:
        raise InputError(
            "has no price",
            where=f"cluster '{cluster.name}'",
            fix="add `price` to its file, give --price, or set RUNPOD_API_KEY for list prices",
        )
    return cluster.price.usd_per_gpu_hour, f"{cluster.price.date}, {cluster.price.source}"


def usable(found: list[Offer], *, max_cost: float | None, volume: str | None) -> list[Offer]:
    """The offers that may be rented.

    Args:
        found: All offers, in order.
        max_cost: USD at most; None: each offer's own limit.
        volume: The network volume, if any.

    Raises:
        InputError: There is none, or the first needs a volume.
    """
    fitting = [offer for offer in found if not offer.problem]
    if not fitting:
        reasons = "; ".join(f"{offer.shape}: {offer.problem}" for offer in found)
        raise InputError(
            f"no shape can train this run: {reasons}",
            fix="give others with --shapes; `multitask estimate SPEC --all` shows what fits",
        )
    if fitting[0].cluster.nodes > 1 and volume is None:
        single = next((o.shape for o in fitting if o.cluster.nodes == 1), "1x8-a100-80gb")
        raise InputError(
            f"{fitting[0].cluster.description} share checkpoints on a network volume, and none is "
            "given",
            where="--volume",
            fix=f"make one at {api.CONSOLE}/user/storage in a data center that has the GPUs and "
            f"give its id, or rent one machine: --shapes {single}",
        )
    fitting = [offer for offer in fitting if offer.cluster.nodes == 1 or volume is not None]
    if any(offer.usd is None for offer in fitting) and max_cost is None:
        raise InputError(
            "the model's sizes are not known, so no cost can be estimated",
            where="--max-cost",
            fix="give the most that you want to spend",
        )
    paid = [offer for offer in fitting if _affordable(offer, max_cost)]
    if not paid:
        cheapest = min(fitting, key=lambda offer: offer.usd or 0.0)
        raise InputError(
            f"the cheapest shape, {cheapest.shape}, is expected to cost ${cheapest.usd or 0:,.2f}, "
            f"and with room to stop in order it needs ${cheapest.needed or 0:,.2f}: more than "
            f"--max-cost {max_cost:,.2f}",
            where="--max-cost",
            fix="raise it, or choose a smaller model, method or number of epochs",
        )
    return paid


def _affordable(offer: Offer, max_cost: float | None) -> bool:
    return max_cost is None or offer.needed is None or offer.needed <= max_cost
