"""Mutual information between features."""

import math
from collections import Counter
from itertools import combinations_with_replacement, product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from ssl_recall import mutual_information
from ssl_recall.mutual_information import Pair, codes_of, fingerprint

Cell = int | None | list[int] | list[int | None]
SINGLE = st.one_of(st.none(), st.integers(0, 4))
LISTS = st.one_of(st.none(), st.lists(st.integers(1, 4), max_size=3))
PAIRS_OF_LISTS = st.lists(st.tuples(LISTS, LISTS), min_size=1, max_size=12)


def table(**columns: list[int | None] | list[list[int] | None]) -> pl.DataFrame:
    dtypes = {
        name: pl.List(pl.Int32) if any(isinstance(cell, list) for cell in cells) else pl.Int32
        for name, cells in columns.items()
    }
    return pl.DataFrame(columns, schema=dtypes)


def pair_information(frame: pl.DataFrame, a: str, b: str, **settings: int) -> Pair:
    codes = {name: codes_of(frame[name]) for name in frame.columns}
    (pair,) = mutual_information.pair_information(codes, [(a, b)], **settings)
    return pair


def entropy(frame: pl.DataFrame, name: str) -> tuple[float, int]:
    return mutual_information.entropy(codes_of(frame[name]))


def mutual_information_matrix(frame: pl.DataFrame, pairs: list[Pair] | None = None) -> pl.DataFrame:
    codes = {name: codes_of(frame[name]) for name in frame.columns}
    if pairs is None:
        pairs = list(mutual_information.pair_information(codes, combinations_with_replacement(codes, 2)))
    entropies = {name: mutual_information.entropy(column) for name, column in codes.items()}
    return mutual_information.mutual_information_matrix(codes, pairs, entropies)


def slow_mutual_information(rows: list[tuple[Cell, Cell]]) -> float:
    """Sum the formula item by item; a missing value is the value 0."""
    joint: Counter[tuple[object, object]] = Counter()
    for cell_a, cell_b in rows:
        a, b = (cell if isinstance(cell, list) else [cell] for cell in (cell_a, cell_b))
        a, b = ([value or 0 for value in a] or [0], [value or 0 for value in b] or [0])
        for u, v in product(a, b):
            joint[u, v] += 1 / (len(a) * len(b) * len(rows))
    p_u: Counter[object] = Counter()
    p_v: Counter[object] = Counter()
    for (u, v), p in joint.items():
        p_u[u] += p
        p_v[v] += p
    return sum(p * math.log(p / (p_u[u] * p_v[v])) for (u, v), p in joint.items())


def test_four_items_by_hand() -> None:
    # item 1 has two values of b, so each pair has half its mass: p(1, 5) = 1/8 + 1/4, p(1, 6) = 1/8, p(2, 6) = 1/2
    codes = table(a=[1, 1, 2, 2], b=[[5, 6], [5], [6], [6]])
    expected = 3 / 8 * math.log(2) + 1 / 8 * math.log((1 / 8) / (1 / 2 * 5 / 8)) + 1 / 2 * math.log(8 / 5)

    assert pair_information(codes, "a", "b").mi == pytest.approx(expected, abs=1e-15)
    joint = list(mutual_information._joint(codes_of(codes["a"]), codes_of(codes["b"]), 0))
    assert [column.tolist() for column in joint[0]] == [[1, 1, 2], [5, 6, 6], [1.5, 0.5, 2.0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SINGLE, SINGLE), min_size=1, max_size=40))
def test_single_valued_features_agree_with_scikit_learn(rows: list[tuple[int | None, int | None]]) -> None:
    a, b = zip(*rows, strict=True)
    expected = mutual_info_score([u or 0 for u in a], [v or 0 for v in b])
    assert pair_information(table(a=list(a), b=list(b)), "a", "b").mi == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(PAIRS_OF_LISTS)
def test_multi_valued_features_agree_with_the_formula_item_by_item(rows: list[tuple[Cell, Cell]]) -> None:
    codes = pl.DataFrame(
        {"a": [a for a, _ in rows], "b": [b for _, b in rows]}, schema=dict.fromkeys("ab", pl.List(pl.Int32))
    )
    found = pair_information(codes, "a", "b").mi

    assert found == pytest.approx(slow_mutual_information(rows), abs=1e-12)
    assert -1e-9 <= found <= min(entropy(codes, "a")[0], entropy(codes, "b")[0]) + 1e-12
    assert pair_information(codes, "a", "a").mi == pytest.approx(
        slow_mutual_information([(a, a) for a, _ in rows]), abs=1e-12
    )


@settings(max_examples=20, deadline=None)
@given(PAIRS_OF_LISTS, st.integers(0, 3))
def test_b_and_a_say_what_a_and_b_say(rows: list[tuple[Cell, Cell]], seed: int) -> None:
    codes = pl.DataFrame(
        {"a": [a for a, _ in rows], "b": [b for _, b in rows]}, schema=dict.fromkeys("ab", pl.List(pl.Int32))
    )
    one, other = pair_information(codes, "a", "b", seed=seed), pair_information(codes, "b", "a", seed=seed)
    assert (one.mi, one.mi_chance) == (other.mi, other.mi_chance)


def masses(frame: pl.DataFrame, a: str, b: str, buckets: int = 0) -> dict[tuple[int, int], float]:
    """Return the mass of every pair of values; check that no pair comes twice."""
    found: dict[tuple[int, int], float] = {}
    for part in mutual_information._joint(codes_of(frame[a]), codes_of(frame[b]), buckets):
        for u, v, mass in zip(*(column.tolist() for column in part), strict=True):
            assert (u, v) not in found
            found[u, v] = mass
    return found


def test_no_item_loses_its_mass_when_lists_are_empty_null_or_hold_null() -> None:
    codes = pl.DataFrame(
        {"a": [[], None, [None], [3]], "b": [None, 1, 2, 2]}, schema={"a": pl.List(pl.Int32), "b": pl.Int32}
    )
    assert masses(codes, "a", "b") == {(0, 0): 1, (0, 1): 1, (0, 2): 1, (3, 2): 1}


def test_a_code_that_stands_twice_in_an_item_counts_twice() -> None:
    found = masses(table(a=[[1, 1, 2]], b=[0]), "a", "b")
    assert found == {(1, 0): pytest.approx(2 / 3), (2, 0): pytest.approx(1 / 3)}


@settings(max_examples=30, deadline=None)
@given(PAIRS_OF_LISTS, st.lists(SINGLE, min_size=12, max_size=12), st.sampled_from([0, 1, 2, 7]), st.integers(1, 13))
def test_sorted_in_any_number_of_parts_is_counted_in_a_table(
    rows: list[tuple[Cell, Cell]], single: list[int | None], buckets: int, size: int
) -> None:
    lists = {"a": [a for a, _ in rows], "b": [b for _, b in rows], "c": single[: len(rows)]}
    schema: dict[str, pl.DataType] = {"a": pl.List(pl.Int32), "b": pl.List(pl.Int32), "c": pl.Int32()}  # type: ignore[dict-item]
    codes = pl.DataFrame(lists, schema=schema)
    for a, b in product("abc", "abc"):
        in_a_table = masses(codes, a, b)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("TABLE", 0), ("ROWS", size), ("SORTED", size)):
                patch.setattr(mutual_information, name, value)
            assert masses(codes, a, b, buckets) == pytest.approx(in_a_table, abs=1e-12)
        assert sum(in_a_table.values()) == pytest.approx(len(rows))


def test_a_fingerprint_changes_with_any_code_any_cut_and_the_settings() -> None:
    columns = [
        pl.Series([[1, 2], [3]]),
        pl.Series([[1], [2, 3]]),
        pl.Series([[1, 2], [4]]),
        pl.Series([[1, 2], [3], []]),
    ]
    prints = [fingerprint(codes_of(column), 1, 1) for column in columns]
    prints += [fingerprint(codes_of(columns[0]), *settings) for settings in ((2, 1), (1, 2))]
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 16 for one in prints)
    assert fingerprint(codes_of(columns[0].cast(pl.List(pl.Int32))), 1, 1) == prints[0]


def test_a_constant_feature_says_nothing_and_divides_by_nothing() -> None:
    rows = mutual_information_matrix(table(constant=[7, 7, 7], missing=[None] * 3, a=[1, 2, 3])).rows(named=True)
    for row in rows:
        if {row["feature_a"], row["feature_b"]} & {"constant", "missing"}:
            assert [row[name] for name in ("mi", "mi_chance", "mi_corrected", "mi_normalised")] == [0.0] * 4
    assert {row["feature_a"]: (row["entropy_a"], row["values_a"]) for row in rows} == {
        "constant": (0.0, 1),
        "missing": (0.0, 1),
        "a": (pytest.approx(math.log(3)), 3),
    }


def test_a_feature_says_its_entropy_about_itself_and_about_its_double() -> None:
    a = np.random.default_rng(0).integers(1, 5, 500)
    codes = pl.DataFrame({"a": a, "double": a, "renamed": 9 - a})
    matrix = mutual_information_matrix(codes)

    assert matrix["mi"].to_numpy() == pytest.approx(np.full(9, entropy(codes, "a")[0]), abs=1e-12)
    assert matrix["mi_normalised"].to_numpy() == pytest.approx(np.ones(9), abs=1e-12)


def test_the_corrected_measure_ranks_a_dependent_pair_above_an_independent_one_with_more_values() -> None:
    """Two independent features of 200 and 50 values over 5,000 items score 0.986 nats by chance alone."""
    rng = np.random.default_rng(0)
    many, some, few = rng.integers(0, 200, 5000), rng.integers(0, 50, 5000), rng.integers(0, 4, 5000)
    follower = np.where(rng.random(5000) < 0.85, few, rng.integers(0, 4, 5000))
    codes = pl.DataFrame({"many": many, "some": some, "few": few, "follower": follower})
    independent, dependent = pair_information(codes, "many", "some"), pair_information(codes, "few", "follower")

    assert independent.mi == pytest.approx(0.986, abs=0.03)
    assert independent.mi > dependent.mi
    assert independent.mi - independent.mi_chance == pytest.approx(0, abs=0.03)
    assert dependent.mi - dependent.mi_chance == pytest.approx(dependent.mi, abs=0.01)


def test_a_feature_that_another_determines_scores_one_whichever_comes_first() -> None:
    fine = np.random.default_rng(0).integers(0, 12, 400)
    matrix = mutual_information_matrix(pl.DataFrame({"fine": fine, "coarse": fine // 4}))
    assert matrix["mi_normalised"].to_numpy() == pytest.approx(np.ones(4), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_a_unique_id_says_the_entropy_by_the_formula_and_nothing_above_chance(seed: int) -> None:
    f = np.random.default_rng(seed).integers(0, 7, 190)
    row = mutual_information_matrix(pl.DataFrame({"an_id": range(190), "f": f})).row(1, named=True)
    assert row["mi"] == pytest.approx(row["entropy_b"], abs=1e-12)
    assert row["mi_corrected"] == pytest.approx(0, abs=1e-12)
    assert row["mi_normalised"] == 0.0


def test_the_chance_level_is_the_mean_over_seeded_shuffles() -> None:
    rng = np.random.default_rng(1)
    codes = pl.DataFrame({"a": rng.integers(0, 9, 300), "b": rng.integers(0, 9, 300)})
    chance = {n: pair_information(codes, "a", "b", seed=5, shuffles=n).mi_chance for n in (1, 2)}
    permuted = [np.random.default_rng([5, n]).permutation(300) for n in (0, 1)]
    expected = [mutual_info_score(codes["a"], codes["b"].to_numpy()[order]) for order in permuted]

    assert chance[1] == pytest.approx(expected[0], abs=1e-12)
    assert chance[2] == pytest.approx(np.mean(expected), abs=1e-12)
    assert pair_information(codes, "a", "b", seed=6).mi_chance != chance[1]


def test_the_matrix_is_the_same_from_pairs_measured_one_by_one_and_again() -> None:
    rng = np.random.default_rng(2)
    codes = pl.DataFrame({name: rng.integers(0, 5, 200) for name in "cab"})
    names = ("a", "b"), ("b", "c"), ("c", "c"), ("a", "a"), ("c", "a"), ("b", "b")
    whole = mutual_information_matrix(codes)

    assert mutual_information_matrix(codes, [pair_information(codes, a, b) for a, b in names]).equals(whole)
    assert whole.select("feature_a", "feature_b").rows() == list(product("cab", "cab"))
    # one feature more does not change the other pairs
    fewer = mutual_information_matrix(codes.drop("a"))
    assert fewer.equals(whole.filter(pl.col("feature_a") != "a", pl.col("feature_b") != "a"))


def test_a_pair_that_nobody_measured_is_refused() -> None:
    codes = table(a=[1, 2], b=[1, 2])
    with pytest.raises(ValueError, match=r"2 pairs are not measured, first \('a', 'a'\)"):
        mutual_information_matrix(codes, [Pair("b", "a", 0.0, 0.0)])


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        pair_information(table(a=[], b=[]), "a", "b")


def test_more_pairs_of_values_than_32_bits_can_number() -> None:
    rows, fewer = 70_000, 40_000
    second = np.minimum(np.random.default_rng(1).zipf(1.3, rows), fewer)
    second[-1] = fewer
    counts = np.bincount(second)[1:]
    shares = counts[counts > 0] / rows
    frame = pl.DataFrame({"a": range(rows), "b": second}).cast(pl.Int32)  # a differs for every item
    assert pair_information(frame, "a", "b").mi == pytest.approx(-shares @ np.log(shares))
