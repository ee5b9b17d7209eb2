"""Mutual information between item features, in nats, over the catalogue; every item has mass 1.

    MI(a; b) = sum_uv p(u, v) log [ p(u, v) / (p(u) p(v)) ]

Each pair of values of an item has mass 1 / (|U| |V|), so marginals are consistent and MI >= 0. A code that an item
repeats counts twice. A missing value is a value: code 0. Two traps:

- The plug-in MI is biased upwards by about (values_a - 1)(values_b - 1) / 2N: two independent features of 200 and 50
  values over 5,000 items score 0.986 nats. The chance level, the MI after shuffling b's rows among the items, is that
  bias.
- A multi-valued feature has MI(f; f) < H(f): the formula pairs each value of an item with all its values.

Pairs of values are counted in a table if all possible pairs fit. Otherwise the observed pairs are sorted, one part of
a's values at a time.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

NOTHING = 1e-12  # nats; a denominator up to this has no information to share
TABLE = 2**16  # the most possible pairs to count in a table; above it sorting is as fast
ROWS = 2**20  # items whose pairs are listed at a time
SORTED = 2**25  # pairs to sort at a time, unless `buckets` is set
SCHEMA = (
    {"feature_a": pl.String, "feature_b": pl.String}
    | dict.fromkeys(("mi", "mi_chance", "mi_corrected", "mi_normalised", "entropy_a", "entropy_b"), pl.Float64)
    | {"values_a": pl.Int64, "values_b": pl.Int64}
)


@dataclass(frozen=True)
class Codes:
    """The codes of one feature of N items, item after item; a missing value is one code 0."""

    values: NDArray[np.int32]  # (V,) not negative
    lengths: NDArray[np.int64] | None  # (N,), at least 1; None if every item has one code
    size: int  # larger than every code

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.values) if self.lengths is None else len(self.lengths)


@dataclass(frozen=True)
class Pair:
    """The mutual information of two features, in nats."""

    feature_a: str
    feature_b: str
    mi: float  # plug-in estimate: the formula, uncorrected
    mi_chance: float  # mean plug-in estimate after shuffling one of the two features


def codes_of(column: pl.Series) -> Codes:
    """Read a column of integer codes or of lists of codes; a null or an empty list is one code 0."""
    lengths = None
    if isinstance(column.dtype, pl.List):
        lengths = np.maximum(column.list.len().fill_null(0).to_numpy().astype(np.int64), 1)
        column = column.explode(empty_as_null=True)
    values = column.cast(pl.Int32).fill_null(0).to_numpy()
    return Codes(values, lengths, int(values.max(initial=0)) + 1)


def fingerprint(codes: Codes, *settings: int) -> str:
    """Return 16 hexadecimal digits that change with any code of the feature and with any of the settings."""
    digest = hashlib.sha256(repr((codes.rows, *settings)).encode())
    for part in (codes.values, codes.lengths):
        if part is not None:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def pair_information(
    codes: Mapping[str, Codes],
    pairs: Iterable[tuple[str, str]],
    *,
    seed: int = 0,
    shuffles: int = 1,
    buckets: int = 0,
    threads: int = 1,
) -> Iterator[Pair]:
    """Measure pairs of features; yield them grouped by the later name.

    A result depends on no other pair, and (b, a) equals (a, b). The chance level is the mean over `shuffles` seeded
    permutations of the feature with the later name. Pairs of values that exceed a table are sorted in `buckets` parts
    (0: as many as needed); the number of parts changes no result. Raises ValueError if there are no items.
    """
    by_second: dict[str, list[tuple[str, str]]] = {}
    for a, b in pairs:
        by_second.setdefault(max(a, b), []).append((a, b))
    names = {name for second, wanted in by_second.items() for name in (second, *map(min, wanted))}
    mass = {name: _marginal(codes[name]) for name in names}
    with ThreadPoolExecutor(threads) as pool:
        for second, wanted in by_second.items():
            moved = (_shuffled(codes[second], np.random.default_rng([seed, number])) for number in range(shuffles))
            measured = []
            for own in itertools.chain([codes[second]], moved):  # one shuffled copy in memory at a time
                measure = partial(_measured, codes, mass, second, own, buckets)
                measured.append(list(pool.map(measure, [min(pair) for pair in wanted])))
            for (a, b), mi, *chance in zip(wanted, *measured, strict=True):
                yield Pair(a, b, mi, sum(chance) / max(len(chance), 1))


def entropy(codes: Codes) -> tuple[float, int]:
    """Return H(feature) in nats and the number of distinct codes, the missing code 0 included."""
    mass = _marginal(codes)
    p = mass[mass > 0] / mass.sum()
    return float(-(p * np.log(p)).sum()) + 0.0, len(p)  # + 0.0 turns a constant's -0.0 into 0.0


def mutual_information_matrix(
    features: Iterable[str],  # K names, in the order of the matrix
    pairs: Iterable[Pair],
    entropies: Mapping[str, tuple[float, int]],  # feature -> result of `entropy`
) -> pl.DataFrame:
    """List all K * K ordered pairs in long form.

    -> feature_a, feature_b, mi, mi_chance, mi_corrected = mi - mi_chance, mi_normalised = mi_corrected / (min(H_a, H_b)
    - mi_chance) (1: one feature determines the other; 0: no more than chance, or chance explains everything),
    entropy_a, entropy_b (nats), values_a, values_b. Raises ValueError if a pair is missing.
    """
    names = list(features)
    known = {frozenset((pair.feature_a, pair.feature_b)): pair for pair in pairs}
    missing = [(a, b) for a, b in itertools.combinations_with_replacement(names, 2) if frozenset((a, b)) not in known]
    if missing:
        raise ValueError(f"{len(missing)} pairs are not measured, first {missing[0]}")
    rows = [_row(known[frozenset((a, b))], a, b, entropies) for a in names for b in names]
    return pl.DataFrame(rows, SCHEMA, orient="row")


def _row(pair: Pair, a: str, b: str, entropies: Mapping[str, tuple[float, int]]) -> tuple[str | float | int, ...]:
    (entropy_a, values_a), (entropy_b, values_b) = entropies[a], entropies[b]
    corrected = pair.mi - pair.mi_chance
    room = min(entropy_a, entropy_b) - pair.mi_chance
    normalised = corrected / room if room > NOTHING else 0.0
    return a, b, pair.mi, pair.mi_chance, corrected, normalised, entropy_a, entropy_b, values_a, values_b


def _measured(
    codes: Mapping[str, Codes],
    mass: Mapping[str, NDArray[np.float64]],
    second: str,
    own: Codes,
    buckets: int,
    first: str,
) -> float:
    """Return the MI of `first` and `second`; `own` has the codes of `second`, perhaps shuffled among the items."""
    return _plug_in(codes[first], own, mass[first], mass[second], buckets)


def _plug_in(a: Codes, b: Codes, of_a: NDArray[np.float64], of_b: NDArray[np.float64], buckets: int) -> float:
    """Sum the formula; `of_a` and `of_b` are the marginal masses."""
    mi, total = 0.0, float(a.rows)
    for u, v, mass in _joint(a, b, buckets):
        mi += float((mass * np.log(mass * total / (of_a[u] * of_b[v]))).sum() / total)
    assert mi >= -1e-9, f"mutual information is never negative, got {mi}: the masses are inconsistent"
    return mi


def _marginal(codes: Codes) -> NDArray[np.float64]:
    """Return the mass of every code, in items: (size,)."""
    if not codes.rows:
        raise ValueError("no items, so nothing to measure")
    weights = None if codes.lengths is None else np.repeat(1 / codes.lengths, codes.lengths)
    return np.bincount(codes.values, weights, minlength=codes.size).astype(np.float64)


def _joint(
    a: Codes, b: Codes, buckets: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield the pairs of values that occur together and their mass in items, one part at a time: (R,), (R,), (R,)."""
    if a.size * b.size <= TABLE:
        table = np.zeros(a.size * b.size)
        for keys, shares in _spelled_out(a, b):
            table += np.bincount(keys, None if shares is None else 1 / shares, minlength=len(table))
        at = np.flatnonzero(table)
        yield at // b.size, at % b.size, table[at]
        return
    parts = buckets or max(-(-_pairs_in(a, b) // SORTED), 1)
    most = int((1 if a.lengths is None else a.lengths.max()) * (1 if b.lengths is None else b.lengths.max()))
    for part in range(parts):
        found = []
        for keys, shares in _spelled_out(a, b):
            packed = keys if shares is None else keys * most + (shares - 1)  # integers, so a sort is enough
            if a.size * b.size * most < 2**31:
                packed = packed.astype(np.int32)  # int32 sorts twice as fast
            found.append(packed if parts == 1 else packed[keys // b.size % parts == part])
        packed = np.concatenate(found) if len(found) > 1 else found[0]
        if len(packed):
            yield _counted(packed, most, b.size)


def _counted(
    packed: NDArray[np.int64] | NDArray[np.int32], most: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Sum the mass of each key (a pair of values); a packed number is key * most + |U| |V| - 1."""
    packed.sort()
    starts = np.flatnonzero(np.concatenate([[True], packed[1:] != packed[:-1]]))
    counts = np.diff(starts, append=len(packed))
    distinct = packed[starts].astype(np.int64)
    if most == 1:
        return distinct // size, distinct % size, counts.astype(np.float64)
    keys, mass = distinct // most, counts / (distinct % most + 1)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first] // size, keys[first] % size, np.add.reduceat(mass, first)


def _pairs_in(a: Codes, b: Codes) -> int:
    """Count the pairs of values over all items."""
    if a.lengths is None:
        return len(b.values)
    return len(a.values) if b.lengths is None else int(a.lengths @ b.lengths)


def _spelled_out(a: Codes, b: Codes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64] | None]]:
    """Yield the pairs of ROWS items at a time: u * b.size + v, and |U| |V| (None if it is 1 for every item)."""
    starts_a, starts_b = _starts(a), _starts(b)
    for low in range(0, a.rows, ROWS):
        high = min(low + ROWS, a.rows)
        of_a = a.values[starts_a[low] : starts_a[high]].astype(np.int64) * b.size
        of_b = b.values[starts_b[low] : starts_b[high]]
        if a.lengths is None and b.lengths is None:
            yield of_a + of_b, None
            continue
        one = np.ones(high - low, np.int64)
        in_a = one if a.lengths is None else a.lengths[low:high]
        in_b = one if b.lengths is None else b.lengths[low:high]
        per_a = np.repeat(in_b, in_a)  # number of values of b that pair with each value of a
        if b.lengths is not None:
            of_b = of_b[_value_positions(np.repeat(np.cumsum(in_b) - in_b, in_a), per_a)]
        else:
            of_b = np.repeat(of_b, in_a)
        yield np.repeat(of_a, per_a) + of_b, np.repeat(in_a * in_b, in_a * in_b)


def _starts(codes: Codes) -> NDArray[np.int64]:
    """Return where each item's values begin, and where the last item's values end: (N + 1,)."""
    if codes.lengths is None:
        return np.arange(codes.rows + 1)
    return np.concatenate([[0], np.cumsum(codes.lengths)])


def _shuffled(codes: Codes, rng: np.random.Generator) -> Codes:
    """Permute the values among the items."""
    order = rng.permutation(codes.rows)
    if codes.lengths is None:
        return Codes(codes.values[order], None, codes.size)
    starts, lengths = np.cumsum(codes.lengths) - codes.lengths, codes.lengths[order]
    return Codes(codes.values[_value_positions(starts[order], lengths)], lengths, codes.size)


def _value_positions(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate start .. start + length - 1 of every row."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
