"""95 % intervals: Wilson's for shares, and one vectorised bootstrap for everything else.

scipy has both for one sample of independent rows. Here many shares are wanted at once, counts may
be fractional (items with several rows), rows of one item are drawn together, several metrics share
their resamples, and rows that count alike are drawn as one cell: see :func:`cells`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Items = Sequence[Hashable]
"""Which item every row comes from; rows of one item are resampled together."""

Statistics = Callable[[Floats], Mapping[str, Floats]]
"""Numbers as a function of row weights.

Takes how often each row counts, shape (resamples, rows), and gives each name an array whose first
axis is the resamples. NaN where a resample does not define the number.
"""

RESAMPLES = 1000
SEED = 0

_Z95 = 1.959963984540054
_TAILS = (0.025, 0.975)
# Weights held at once; more are drawn in turns, so that memory does not grow with the rows.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A number on all rows, and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """As written to results.json."""
        return asdict(self)


def wilson(hits: float, n: float) -> Interval:
    """A share of ``n`` independent rows, with the Wilson score interval.

    E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference": it
    holds its level for few rows and for shares near 0 and 1. Where several rows come from one
    item it does not: see :func:`share`.

    Raises:
        ValueError: There are no rows.
    """
    if n <= 0:
        raise ValueError("no rows")
    value = hits / n
    low, high = wilson_ends(np.array(value), np.array(float(n)))
    return Interval(value, float(low), float(high))


def wilson_ends(shares: Floats, n: Floats) -> tuple[Floats, Floats]:
    """The ends of :func:`wilson` for many shares at once, each of ``n`` rows."""
    centre = (shares + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    spread = np.sqrt(shares * (1 - shares) / n + _Z95**2 / (4 * n**2))
    half = _Z95 / (1 + _Z95**2 / n) * spread
    # The ends are exact at 0 and 1, where rounding would leave a hair outside.
    low: Floats = np.minimum(shares, np.maximum(0.0, centre - half))
    high: Floats = np.maximum(shares, np.minimum(1.0, centre + half))
    return low, high


def share(hits: npt.ArrayLike, items: Items | None = None) -> Interval:
    """The share of rows that are true: Wilson's interval, or the bootstrap over items.

    Where all rows are true, or none, resampling items has no spread; the interval is then Wilson's
    with every item counted as one row.

    Raises:
        ValueError: There are no rows, or not one item per row.
    """
    values = np.asarray(hits, dtype=np.float64)
    if items is None:
        return wilson(float(values.sum()), len(values))
    if len(values) and values.min() == values.max():
        count = int(item_codes(items, len(values)).max()) + 1
        return wilson(float(values[0]) * count, count)
    return bootstrap(means({"share": values}), len(values), items)["share"]


def means(columns: Mapping[str, npt.ArrayLike]) -> Statistics:
    """The weighted means of numbers per row, as statistics for :func:`bootstrap`."""
    names = list(columns)
    table = np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in names])

    def statistics(weights: Floats) -> Mapping[str, Floats]:
        found = weights @ table / weights.sum(axis=1, keepdims=True)
        return {name: found[:, i] for i, name in enumerate(names)}

    return statistics


def bootstrap(
    statistics: Statistics, rows: int | Ints, items: Items | None = None, *, width: int = 0
) -> dict[str, Interval]:
    """Numbers with percentile bootstrap intervals (Efron, 1979), all from the same resamples.

    The value is that of the rows themselves, not the mean of the resamples; an interval that would
    not hold it is widened to it. Resamples that do not define a number are left out of its
    interval. Where every row contributes the same, the interval has no width.

    Args:
        statistics: The numbers.
        rows: How many rows there are, or how many rows each cell stands for (:func:`cells`).
        items: The item of every row; whole items are then resampled (the cluster bootstrap:
            Davison and Hinkley, 1997, "Bootstrap Methods and their Application", section 3.8).
        width: Numbers that the statistics hold per resample, where those are more than the rows.

    Raises:
        ValueError: There are no rows, or not one item per row.
    """
    values, low, high = bootstrap_arrays(statistics, rows, items, width=width)
    return {
        name: Interval(float(values[name]), float(low[name]), float(high[name])) for name in values
    }


def bootstrap_arrays(
    statistics: Statistics, rows: int | Ints, items: Items | None = None, *, width: int = 0
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """As :func:`bootstrap` for arrays of numbers: values, lower and upper ends."""
    _require(rows, items)
    values = {name: found[0] for name, found in statistics(unit_weights(rows)).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in resamples(rows, items, width=width):
        for name, found in statistics(weights).items():
            drawn[name].append(found)
    low, high = {}, {}
    for name, value in values.items():
        ends = quantiles(np.concatenate(drawn[name]))
        low[name], high[name] = np.fmin(ends[0], value), np.fmax(ends[1], value)
    return values, low, high


def unit_weights(rows: int | Ints) -> Floats:
    """The weights of the rows themselves: shape (1, rows)."""
    return np.ones((1, rows)) if isinstance(rows, int) else rows.astype(np.float64)[None]


def resamples(
    rows: int | Ints, items: Items | None = None, *, width: int = 0, seed: int = SEED
) -> Iterator[Floats]:
    """How often each row or cell is drawn in each of :data:`RESAMPLES` resamples, in chunks.

    Yields:
        Arrays of shape (resamples of this chunk, rows).

    Raises:
        ValueError: There are no rows, or not one item per row.
    """
    columns = _require(rows, items)
    rng = np.random.default_rng(seed)
    codes = None if items is None else item_codes(items, columns)
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


def _require(rows: int | Ints, items: Items | None) -> int:
    columns = rows if isinstance(rows, int) else len(rows)
    if items is not None and len(items) != columns:
        raise ValueError(f"{columns} rows but {len(items)} items")
    if not columns:
        raise ValueError("no rows")
    return columns


def _drawn(rng: np.random.Generator, size: int, units: int) -> Floats:
    drawn = rng.integers(0, units, (size, units))
    drawn += np.arange(size)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=size * units)
    return counts.reshape(size, units).astype(np.float64)


def cells(codes: Ints, items: Items | None = None) -> tuple[Ints, int | Ints]:
    """Put rows that count alike into one cell, where that saves work.

    Without items, the counts of the cells in a resample are multinomial, and a metric that depends
    on the rows through these counts alone has exactly the distribution of a bootstrap over rows.

    Args:
        codes: A number per row, the same for rows that count alike.
        items: The item of every row: then, rows stay as they are.

    Returns:
        The code of each cell, and the rows in it, as :func:`bootstrap` takes them.
    """
    if items is None:
        found, rows = np.unique(codes, return_counts=True)
        # A multinomial draw costs several times a row's draw.
        if 4 * len(found) <= len(codes):
            return found, rows.astype(np.int64)
    return codes, len(codes)


def item_codes(items: Items, rows: int) -> Ints:
    """Number the items from 0, in order of first appearance.

    Raises:
        ValueError: Not one item per row.
    """
    if len(items) != rows:
        raise ValueError(f"{rows} rows but {len(items)} items")
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(item, len(known)) for item in items], dtype=np.int64)


def items_at(items: Items | None, places: Iterable[int]) -> Items | None:
    """The items of some of the rows."""
    return None if items is None else [items[i] for i in places]


def if_repeated(items: Items) -> Items | None:
    """The items of rows; None where every row has an item of its own."""
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


def distance(value: float, draws: Floats, null: Floats) -> Interval:
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
    return Interval(value, min(value, max(0.0, float(low))), min(1.0, max(value, float(high))))


def simulated(draw: Callable[[np.random.Generator, int], Floats], width: int) -> Floats:
    """A null distribution: :data:`RESAMPLES` draws, so many at once that ``width`` numbers fit."""
    # Not the generator of the resamples: the two are compared.
    rng = np.random.default_rng([SEED, 1])
    step = max(1, _CHUNK // max(1, width))
    starts = range(0, RESAMPLES, step)
    return np.concatenate([draw(rng, min(step, RESAMPLES - start)) for start in starts])


class Groups:
    """Column sums of a matrix by group, for many matrices with the same groups."""

    def __init__(self, codes: Ints, size: int) -> None:
        """Prepare the sums over the group of every column, 0 to ``size - 1``."""
        self.size = size
        self._order = np.argsort(codes, kind="stable")
        self._sorted = bool((self._order == np.arange(len(codes))).all())
        self._found, self._starts = np.unique(codes[self._order], return_index=True)

    def sums(self, matrix: Floats) -> Floats:
        """Sum columns by group, (rows, columns) to (rows, groups); an empty group sums to 0."""
        if not len(self._starts):
            return np.zeros((len(matrix), self.size))
        ordered = matrix if self._sorted else matrix[:, self._order]
        found = np.add.reduceat(ordered, self._starts, axis=1)
        if len(self._found) == self.size:
            return found
        out = np.zeros((len(matrix), self.size))
        out[:, self._found] = found
        return out


def ratio(numerator: Floats, denominator: Floats, otherwise: float = np.nan) -> Floats:
    """Divide; ``otherwise`` where the denominator is not above 0."""
    out: Floats = np.full(np.broadcast(numerator, denominator).shape, otherwise)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


@dataclass(frozen=True)
class Confusion:
    """The margins and the diagonal of a confusion matrix, for each of many resamples.

    Attributes:
        hits: Rows of each gold label that are predicted right, shape (resamples, labels).
        gold: Rows of each gold label, the same shape.
        predicted: Rows predicted as each label, the same shape; off-list answers are in none.
        rows: All rows, shape (resamples,).
    """

    hits: Floats
    gold: Floats
    predicted: Floats
    rows: Floats

    @property
    def recall(self) -> Floats:
        """Share of each gold label's rows that are found; NaN where it has none."""
        return ratio(self.hits, self.gold)

    @property
    def precision(self) -> Floats:
        """Share of the rows predicted as each label that are right; NaN where there are none."""
        return ratio(self.hits, self.predicted)

    @cached_property
    def f1(self) -> Floats:
        """F1 of each label; NaN where it is neither gold nor predicted."""
        # F1 = 2 TP / (2 TP + FP + FN), and the denominator is gold count + predicted count.
        return ratio(2 * self.hits, self.gold + self.predicted)


def counter(gold: Ints, predicted: Ints, labels: int) -> Callable[[Floats], Confusion]:
    """Weights of rows or cells, shape (resamples, rows), to the confusion of each resample.

    Args:
        gold: Gold label of every row, 0 to ``labels - 1``.
        predicted: Predicted label of every row; ``labels`` where it is off-list.
        labels: How many labels there are.
    """
    right = gold == predicted
    of_gold, of_hits = Groups(gold, labels), Groups(gold[right], labels)
    of_predicted = Groups(predicted, labels + 1)

    def confusion(weights: Floats) -> Confusion:
        return Confusion(
            hits=of_hits.sums(weights[:, right]),
            gold=of_gold.sums(weights),
            predicted=of_predicted.sums(weights)[:, :labels],
            rows=weights.sum(axis=1),
        )

    return confusion
