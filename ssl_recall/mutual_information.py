"""Mutual information between item features, in nats, over the catalogue: every item has mass 1.

    MI(a; b) = sum_uv p(u, v) log [ p(u, v) / (p(u) p(v)) ]

An item with several values gives each of its pairs the mass 1 / (|U| |V|), so marginals stay consistent and MI >= 0. A
code that stands twice in an item counts twice. A missing value is a value of its own, code 0. Two traps:

- The plug-in MI is biased up by about (values_a - 1)(values_b - 1) / 2N: two independent features of 200 and 50 values
  over 5,000 items score .986 nats. The chance level, the same MI with b's rows shuffled among the items, is that bias.
- Of a multi-valued feature the formula makes MI(f; f) < H(f): which of its values stand together is left to chance.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from narwhals.stable.v2.typing import IntoDataFrame, IntoDataFrameT, IntoLazyFrameT
from numpy.typing import NDArray

NOTHING = 1e-12  # nats; a denominator below it has no information to share
SCHEMA = (
    {"feature_a": nw.String, "feature_b": nw.String}
    | dict.fromkeys(("mi", "mi_chance", "mi_corrected", "mi_normalised", "entropy_a", "entropy_b"), nw.Float64)
    | {"values_a": nw.Int64, "values_b": nw.Int64}
)


@dataclass(frozen=True)
class Pair:
    """What two features say about each other, in nats."""

    feature_a: str
    feature_b: str
    mi: float  # plug-in, the formula as it stands
    mi_chance: float  # mean plug-in of the same two features when they have nothing to do with each other


def contingency(
    codes: IntoLazyFrameT,  # one row an item; int columns, or list<int> of a multi-valued feature
    *features: str,  # one for its marginal, two for the joint; the same twice is allowed
) -> IntoLazyFrameT:
    """Count how often values stand together: -> value_0, value_1, .., share, rows (all integers), sorted.

    The mass of a tuple of values is the sum of rows / share over its lines; integers until then, so that no engine's
    order of adding shows.
    """
    names = [f"value_{number}" for number in range(len(features))]
    frame = nw.from_native(codes).select(
        nw.col(feature).alias(name) for name, feature in zip(names, features, strict=True)
    )
    lists = [name for name, dtype in frame.collect_schema().items() if dtype == nw.List]
    share = nw.lit(1, dtype=nw.Int64)
    for name in lists:
        length = nw.col(name).list.len().cast(nw.Int64)
        share = share * nw.when(length > 0).then(length).otherwise(nw.lit(1, dtype=nw.Int64))
    frame = frame.with_columns(share.alias("share"))
    for name in lists:  # an empty list loses its row when it is exploded, a null keeps it
        frame = frame.with_columns(nw.when(nw.col(name).list.len() > 0).then(nw.col(name)).alias(name)).explode(name)
    frame = frame.with_columns(nw.col(*names).fill_null(0).cast(nw.Int64))
    counts = frame.group_by(*names, "share").agg(nw.len().cast(nw.Int64).alias("rows"))
    return counts.sort(*names, "share").to_native()


def pair_information(codes: IntoDataFrame, a: str, b: str, *, seed: int = 0, shuffles: int = 1) -> Pair:
    """Measure one pair of the codes' columns, on its own: the same number whatever else is measured, and b, a as a, b.

    The chance level is the mean over `shuffles` seeded permutations. Raises ValueError when there are no items.
    """
    first, second = sorted((a, b))
    frame = nw.from_native(codes, eager_only=True)
    mi = _plug_in(frame.select(nw.col(first).alias("a"), nw.col(second).alias("b")))
    chance = [_plug_in(_shuffled(frame, first, second, np.random.default_rng([seed, n]))) for n in range(shuffles)]
    return Pair(a, b, mi, float(np.mean(chance)) if chance else 0.0)


def entropy(codes: IntoDataFrame, feature: str) -> tuple[float, int]:
    """Give H(feature) in nats and the number of distinct codes, missing among them."""
    frame = nw.from_native(codes, eager_only=True)
    _, mass = _masses(frame, feature)
    p = mass / mass.sum()
    return float(-(p * np.log(p)).sum()) + 0.0, len(mass)  # + 0.0: a constant's -0.0 is 0


def mutual_information_matrix(
    codes: IntoDataFrameT,  # one column a feature, N rows
    pairs: Iterable[Pair] | None = None,  # those already measured; None measures all
) -> IntoDataFrameT:
    """Lay all K * K ordered pairs out in long form, in the order of the columns.

    -> feature_a, feature_b, mi, mi_chance, mi_corrected = mi - mi_chance, mi_normalised = mi_corrected / (min(H_a, H_b)
    - mi_chance) (1: one feature determines the other; 0: no more than chance; 0 too where chance explains everything),
    entropy_a, entropy_b (nats), values_a, values_b. Raises ValueError when a pair is missing.
    """
    frame = nw.from_native(codes, eager_only=True)
    features = frame.columns
    if pairs is None:
        pairs = [pair_information(codes, a, b) for a, b in combinations_with_replacement(features, 2)]
    known = {frozenset((pair.feature_a, pair.feature_b)): pair for pair in pairs}
    missing = [(a, b) for a, b in combinations_with_replacement(features, 2) if frozenset((a, b)) not in known]
    if missing:
        raise ValueError(f"{len(missing)} pairs are not measured, first {missing[0]}")
    entropies = {feature: entropy(codes, feature) for feature in features}
    rows = [_row(known[frozenset((a, b))], a, b, entropies) for a in features for b in features]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(SCHEMA)}
    matrix: IntoDataFrameT = nw.from_dict(columns, SCHEMA, backend=frame.implementation).to_native()
    return matrix


def _row(pair: Pair, a: str, b: str, entropies: dict[str, tuple[float, int]]) -> tuple[str | float | int, ...]:
    (entropy_a, values_a), (entropy_b, values_b) = entropies[a], entropies[b]
    corrected = pair.mi - pair.mi_chance
    room = min(entropy_a, entropy_b) - pair.mi_chance
    normalised = corrected / room if room > NOTHING else 0.0
    return a, b, pair.mi, pair.mi_chance, corrected, normalised, entropy_a, entropy_b, values_a, values_b


def _shuffled(frame: nw.DataFrame[Any], a: str, b: str, rng: np.random.Generator) -> nw.DataFrame[Any]:
    """Give b's rows to other items."""
    shuffled = frame.get_column(b)[rng.permutation(len(frame)).tolist()]
    return frame.select(nw.col(a).alias("a")).with_columns(shuffled.alias("b"))


def _masses(frame: nw.DataFrame[Any], *features: str) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """Give the distinct tuples of values, a column (R,) a feature, and their mass (R,) in items."""
    if not len(frame):
        raise ValueError("no items, so nothing to measure")
    lines = nw.from_native(contingency(frame.lazy().to_native(), *features)).collect()
    values = [lines[f"value_{number}"].to_numpy() for number in range(len(features))]
    changed = np.zeros(len(lines), bool)
    changed[0] = True
    for column in values:
        changed[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changed)
    mass = np.add.reduceat(lines["rows"].to_numpy() / lines["share"].to_numpy(), starts)
    return [column[starts] for column in values], mass


def _plug_in(pair: nw.DataFrame[Any]) -> float:
    (a, b), mass = _masses(pair, "a", "b")
    of_a, of_b = np.bincount(a, weights=mass), np.bincount(b, weights=mass)
    total = mass.sum()
    mi = float((mass * np.log(mass * total / (of_a[a] * of_b[b]))).sum() / total)
    assert mi >= -1e-9, f"mutual information is never negative, got {mi}: the masses are inconsistent"
    return mi
