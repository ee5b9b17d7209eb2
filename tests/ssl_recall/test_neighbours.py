import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall import neighbours, views
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable, rows_of

few = settings(max_examples=40, deadline=None)


def table_of(kinds: list[Kind], rows: list[list[list[int]]]) -> EncodedTable:
    """Build a table from each row's bags of codes."""
    bags = [bag for row in rows for bag in row]
    names = tuple(f"f{number}" for number in range(len(kinds)))
    offsets = torch.tensor([0, *np.cumsum([len(bag) for bag in bags])], dtype=torch.int64)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    return EncodedTable(names, tuple(kinds), names, codes, offsets, {})


def drawn(table: EncodedTable, seed: int = 0) -> list[int]:
    rng = neighbours.neighbour_generator(seed, 0, 0)
    return neighbours.draw(rng, neighbours.sharing(table), table, 0).tolist()


def test_a_neighbour_by_hand() -> None:
    """Items 0 and 1 share a colour. Item 2 has a unique colour and no tag. Items 3 and 4 share only the tag 7."""
    kinds = [Kind.ID, Kind.CATEGORICAL, Kind.MULTI_VALUED]
    rows = [[[2], [2], [2, 3]], [[3], [2], [4]], [[4], [3], [0]], [[5], [0], [7, 8]], [[6], [1], [7]]]
    assert drawn(table_of(kinds, rows)) == [1, 0, -1, 4, 3]


def test_what_is_missing_unknown_an_id_or_a_vector_is_shared_by_nobody() -> None:
    kinds = [Kind.ID, Kind.DENSE, Kind.CATEGORICAL]
    assert drawn(table_of(kinds, [[[2], [1], [0]], [[2], [1], [0]], [[2], [1], [1]], [[2], [1], [1]]])) == [-1] * 4
    assert drawn(table_of([Kind.CATEGORICAL], [])) == []


def test_a_value_that_too_many_bear_is_no_sign_of_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[[2]] for _ in range(5)]
    assert -1 not in drawn(table_of([Kind.CATEGORICAL], rows))
    monkeypatch.setattr(neighbours, "COMMON", 5)
    assert -1 not in drawn(table_of([Kind.CATEGORICAL], rows))
    monkeypatch.setattr(neighbours, "COMMON", 4)
    assert drawn(table_of([Kind.CATEGORICAL], rows)) == [-1] * 5


codes = st.integers(0, 6)


@st.composite
def tables(draw: st.DrawFn) -> EncodedTable:
    bag = st.lists(codes, min_size=1, max_size=4, unique=True)
    rows = draw(st.lists(st.tuples(st.lists(codes, min_size=1, max_size=1), bag), min_size=1, max_size=12))
    return table_of([Kind.CATEGORICAL, Kind.MULTI_VALUED], [list(row) for row in rows])


def bags(table: EncodedTable) -> list[list[set[int]]]:
    k, ends = len(table.names), table.offsets.tolist()
    flat = [set(table.codes[a:b].tolist()) for a, b in itertools.pairwise(ends)]
    return [flat[at : at + k] for at in range(0, len(flat), k)]


@given(tables(), st.integers(0, 99))
@few
def test_a_neighbour_is_another_item_that_shares_a_value_and_is_there_whenever_one_is(
    table: EncodedTable, seed: int
) -> None:
    own = bags(table)

    def alike(i: int, j: int) -> bool:
        return i != j and any(a & b - {0, 1} for a, b in zip(own[i], own[j], strict=True))

    for item, found in enumerate(drawn(table, seed)):
        others = [j for j in range(table.rows) if alike(item, j)]
        assert found in others if others else found == -1


def test_neighbours_come_as_often_as_the_formula_says() -> None:
    """P(j) = sum over the values that i shares with j of w_v / sum w, times 1 / (n_v - 1), with w_v = 1 / (n_v - 1)."""
    kinds = [Kind.CATEGORICAL, Kind.MULTI_VALUED]
    rows = [[[2], [2, 3]], [[2], [4]], [[2], [2]], [[3], [3, 5]], [[3], [2, 4]]]
    table = table_of(kinds, rows)
    own = bags(table)
    bearers = Counter((f, code) for row in own for f, bag in enumerate(row) for code in bag)
    weights = {(f, c): 1 / (bearers[f, c] - 1) for f, bag in enumerate(own[0]) for c in bag if bearers[f, c] > 1}
    expected = np.zeros(len(rows))
    for (f, code), weight in weights.items():
        for j in range(1, len(rows)):
            if code in own[j][f]:
                expected[j] += weight / sum(weights.values()) / (bearers[f, code] - 1)
    shared, rng = neighbours.sharing(table), np.random.default_rng(5)
    counts = Counter(int(neighbours.draw(rng, shared, table, 0)[0]) for _ in range(8000))
    found = np.array([counts[j] for j in range(len(rows))]) / 8000
    assert found == pytest.approx(expected, abs=4 * 0.5 / 8000**0.5)


def test_a_part_of_the_catalogue_names_the_rows_of_the_whole() -> None:
    rows = [[[2 + n // 2]] for n in range(10)]
    table = table_of([Kind.CATEGORICAL], rows)
    part = rows_of(table, 6, 10)
    found = neighbours.draw(neighbours.neighbour_generator(0, 0, 0), neighbours.sharing(table), part, 6)
    assert found.tolist() == [7, 6, 9, 8]


def test_a_list_that_holds_a_value_twice_is_not_its_own_neighbour() -> None:
    table = table_of([Kind.MULTI_VALUED], [[[2, 2]], [[3]]])
    assert drawn(table) == [-1, -1]


def test_variants_and_blocks_have_draws_of_their_own() -> None:
    table = table_of([Kind.CATEGORICAL], [[[2]] for _ in range(50)])
    shared = neighbours.sharing(table)
    keys = [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]
    found = [tuple(neighbours.draw(neighbours.neighbour_generator(*key), shared, table, 0).tolist()) for key in keys]
    assert len(set(found)) == len(keys)
    assert found[0] == tuple(neighbours.draw(neighbours.neighbour_generator(1, 0, 0), shared, table, 0).tolist())


def test_neighbours_and_views_of_a_variant_and_block_are_drawn_apart() -> None:
    assert neighbours.neighbour_generator(1, 2, 3).random() != views.view_generator(1, 2, 3).random()
