"""Numbers with 95 % intervals: Wilson's for shares, a seeded bootstrap for everything else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Clusters = Sequence[Hashable]
"""Which item every row comes from; rows of one item are resampled together."""

Statistics = Callable[[Floats], Mapping[str, Floats]]
"""Metrics as a function of row weights.

Takes how often each row counts, shape (resamples, rows), and gives each metric an array whose first
axis is the resamples. NaN where a resample does not define the metric.
"""

RESAMPLES = 1000

_Z95 = 1.959963984540054
_TAILS = (0.025, 0.975)
# Weights held at once; more are drawn in turns, so that memory does not grow with the rows.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % confidence interval.

    Attributes:
        value: The point estimate on all rows.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """As written to results.json."""
        return asdict(self)


def wilson(hits: float, n: float) -> Estimate:
    """A share of independent rows, with the Wilson score interval.

    Wilson's interval (E. B. Wilson, 1927, "Probable inference, the law of succession, and
    statistical inference") holds its level for few rows and for shares near 0 and 1. It does not
    hold where several rows come from one item: see :func:`share`.

    Raises:
        ValueError: There are no rows.
    """
    if n <= 0:
        raise ValueError("no rows")
    value = hits / n
    low, high = wilson_ends(np.array(value), np.array(float(n)))
    return Estimate(value, float(low), float(high))


def wilson_ends(shares: Floats, n: Floats) -> tuple[Floats, Floats]:
    """The ends of :func:`wilson` for many shares at once, each of ``n`` rows."""
    centre = (shares + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    spread = np.sqrt(shares * (1 - shares) / n + _Z95**2 / (4 * n**2))
    half = _Z95 / (1 + _Z95**2 / n) * spread
    # The ends are exact at 0 and 1, where rounding would leave a hair outside.
    low: Floats = np.minimum(shares, np.maximum(0.0, centre - half))
    high: Floats = np.maximum(shares, np.minimum(1.0, centre + half))
    return low, high


def share(
    hits: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """The share of rows that are true: Wilson's interval, or the clustered bootstrap.

    Where all rows are true, or none, resampling clusters has no spread; the interval is then
    Wilson's with every cluster counted as one row.

    Raises:
        ValueError: There are no rows, or not one cluster per row.
    """
    values = np.asarray(hits, dtype=np.float64)
    if clusters is None:
        return wilson(float(values.sum()), len(values))
    if len(values) and values.min() == values.max():
        groups = int(cluster_codes(clusters, len(values)).max()) + 1
        return wilson(float(values[0]) * groups, groups)
    return mean(values, clusters=clusters, seed=seed)


def mean(values: npt.ArrayLike, *, clusters: Clusters | None = None, seed: int = 0) -> Estimate:
    """The mean of a number per row, with the percentile bootstrap.

    Raises:
        ValueError: There are no rows, or not one cluster per row.
    """
    column = np.asarray(values, dtype=np.float64)
    found = bootstrap(means({"mean": column}), len(column), clusters=clusters, seed=seed)
    return found["mean"]


def means(columns: Mapping[str, npt.ArrayLike]) -> Statistics:
    """The weighted means of numbers per row, as statistics for :func:`bootstrap`."""
    names = list(columns)
    table = np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in names])

    def statistics(weights: Floats) -> Mapping[str, Floats]:
        found = weights @ table / weights.sum(axis=1, keepdims=True)
        return {name: found[:, i] for i, name in enumerate(names)}

    return statistics


def bootstrap(
    statistics: Statistics,
    rows: int | Ints,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    width: int = 0,
) -> dict[str, Estimate]:
    """Metrics with percentile bootstrap intervals (Efron, 1979), all from the same resamples.

    The value is the metric of the rows themselves, not the mean of the resamples; an interval that
    would not hold it is widened to it. Resamples that do not define a metric are left out of its
    interval. Where every row contributes the same, the interval has no width.

    Args:
        statistics: The metrics; each must give one number per resample.
        rows: How many rows there are, or, where equal rows are put together, how many each
            stands for.
        clusters: The item of every row; whole items are then resampled (the cluster bootstrap:
            Davison and Hinkley, 1997, "Bootstrap Methods and their Application", section 3.8).
        seed: Seeds the resampling.
        width: Numbers that the statistics hold per resample, where those are more than the rows.

    Raises:
        ValueError: There are no rows, or not one cluster per row.
    """
    values, low, high = bootstrap_arrays(
        statistics, rows, clusters=clusters, seed=seed, width=width
    )
    return {
        name: Estimate(float(values[name]), float(low[name]), float(high[name])) for name in values
    }


def bootstrap_arrays(
    statistics: Statistics,
    rows: int | Ints,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    width: int = 0,
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """As :func:`bootstrap` for metrics of any shape: values, lower and upper ends."""
    _require(rows, clusters)
    values = {name: found[0] for name, found in statistics(unit_weights(rows)).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in resamples(rows, clusters=clusters, seed=seed, width=width):
        for name, found in statistics(weights).items():
            drawn[name].append(found)
    low, high = {}, {}
    for name, value in values.items():
        ends = quantiles(np.concatenate(drawn[name]))
        low[name], high[name] = np.fmin(ends[0], value), np.fmax(ends[1], value)
    return values, low, high


def unit_weights(rows: int | Ints) -> Floats:
    """The weights of the rows themselves: shape (1, rows)."""
    if isinstance(rows, int):
        return np.ones((1, rows))
    return rows.astype(np.float64)[None]


def resamples(
    rows: int | Ints,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    width: int = 0,
) -> Iterator[Floats]:
    """How often each row is drawn in each of :data:`RESAMPLES` resamples, in chunks.

    Yields:
        Arrays of shape (resamples of this chunk, rows).

    Raises:
        ValueError: There are no rows, or not one cluster per row.
    """
    columns = _require(rows, clusters)
    rng = np.random.default_rng(seed)
    codes = None if clusters is None else cluster_codes(clusters, columns)
    step = max(1, min(RESAMPLES, _CHUNK // max(columns, width)))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        if codes is not None:
            yield _drawn(rng, size, int(codes.max()) + 1)[:, codes]
        elif isinstance(rows, int):
            yield _drawn(rng, size, rows)
        else:
            total = int(rows.sum())
            yield rng.multinomial(total, rows / total, size=size).astype(np.float64)


def _require(rows: int | Ints, clusters: Clusters | None) -> int:
    columns = rows if isinstance(rows, int) else len(rows)
    if clusters is not None and len(clusters) != columns:
        raise ValueError(f"{columns} rows but {len(clusters)} clusters")
    if not columns:
        raise ValueError("no rows")
    return columns


def _drawn(rng: np.random.Generator, size: int, units: int) -> Floats:
    drawn = rng.integers(0, units, (size, units))
    drawn += np.arange(size)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=size * units)
    return counts.reshape(size, units).astype(np.float64)


def cluster_codes(clusters: Clusters, rows: int) -> Ints:
    """Number the clusters from 0, in order of first appearance.

    Raises:
        ValueError: Not one cluster per row.
    """
    if len(clusters) != rows:
        raise ValueError(f"{rows} rows but {len(clusters)} clusters")
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(cluster, len(known)) for cluster in clusters], dtype=np.int64)


def items_at(clusters: Clusters | None, places: Iterable[int]) -> Clusters | None:
    """The clusters of some of the rows."""
    return None if clusters is None else [clusters[i] for i in places]


def if_repeated(items: Clusters) -> Clusters | None:
    """The items of rows as their clusters; None where every row has an item of its own."""
    return items if len(set(items)) < len(items) else None


def quantiles(draws: Floats) -> Floats:
    """The ends of the central 95 % of the draws along the first axis, without NaN."""
    ends: Floats
    if not np.isnan(draws).any():
        ends = np.quantile(draws, _TAILS, axis=0)
    else:
        with warnings.catch_warnings():
            # Of a column that is never defined; it stays NaN.
            warnings.simplefilter("ignore", RuntimeWarning)
            ends = np.nanquantile(draws, _TAILS, axis=0)
    return ends


def distance(value: float, draws: Floats, null: Floats) -> Estimate:
    """A distance (at least 0) with an interval that allows for its upward bias.

    A distance between two estimated distributions is too large on few rows even where there is
    none, and larger still in a resample: the percentile interval misses the truth, always from
    above where there is none. How much larger (the bias) is seen from the resamples. The ends are
    those of the basic bootstrap interval (Davison and Hinkley, 1997, section 5.2),
    ``2 * value - quantile``, which takes the bias out twice, or of the percentile interval with
    the bias taken out once, whichever is wider: the bias fades as the true distance grows, so
    that neither alone is right everywhere. The lower end is 0 where the value lies within the
    central 95 % of the distances that rows with no true distance give.

    Args:
        value: The distance on all rows.
        draws: The distance in each resample.
        null: Distances simulated without any true distance.
    """
    lowest, highest = np.quantile(draws, _TAILS)
    bias = draws.mean() - value
    low = min(2 * value - highest, lowest - bias)
    high = max(2 * value - lowest, highest - bias)
    if value <= np.quantile(null, _TAILS[1]):
        low = 0.0
    return Estimate(value, min(value, max(0.0, float(low))), min(1.0, max(value, float(high))))


class Groups:
    """Column sums of a matrix by group, for many matrices with the same groups."""

    def __init__(self, codes: Ints, size: int) -> None:
        """Prepare the sums.

        Args:
            codes: The group of every column, 0 to ``size - 1``.
            size: How many groups there are; those without columns sum to 0.
        """
        self.size = size
        self._order = np.argsort(codes, kind="stable")
        self._sorted = bool((self._order == np.arange(len(codes))).all())
        self._found, self._starts = np.unique(codes[self._order], return_index=True)

    def sums(self, matrix: Floats) -> Floats:
        """Sum columns by group: (rows, columns) to (rows, groups)."""
        if not len(self._starts):
            return np.zeros((len(matrix), self.size))
        ordered = matrix if self._sorted else matrix[:, self._order]
        found = np.add.reduceat(ordered, self._starts, axis=1)
        if len(self._found) == self.size:
            return found
        out = np.zeros((len(matrix), self.size))
        out[:, self._found] = found
        return out
