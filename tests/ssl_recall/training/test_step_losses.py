from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall import losses, towers
from ssl_recall.data import features
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import Bags, EncodedTable, bags_of
from ssl_recall.towers import TwoTower
from ssl_recall.training import loop, sampling
from ssl_recall.training.excluded_pairs import not_negatives, pairs_of_equal
from ssl_recall.training.objective import SelfSupervision
from ssl_recall.training.planner import Planner, _as_query, view_pair

from ..small_world import (
    BESIDE,
    IMAGES,
    ITEM_BAGS,
    ITEMS,
    KINDS,
    PLAIN,
    QUERIES,
    SSL,
    VOCABULARIES,
    Given,
    N,
    data_of,
    few,
    masks_of,
    model_of,
    neighbour_of,
    slow_softmax,
    step_losses,
    stored,
    table_of,
    views_of,
)

# --- the main loss ---


@st.composite
def events(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    one = st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, N - 3))
    return sorted(draw(st.lists(one, min_size=2, max_size=12)))


@given(events(), st.integers(0, 2), st.data())
@few
def test_the_main_loss_is_the_formula_on_the_towers_vectors(
    log: list[tuple[int, int, int]], history: int, data: st.DataObject
) -> None:
    model, everything = model_of(history=history > 0), data_of(log)
    rows = data.draw(st.lists(st.integers(0, len(log) - 1), min_size=1, max_size=6))
    further = data.draw(st.lists(st.integers(0, N - 1), max_size=3))
    candidates = [log[row][2] for row in rows] + further
    everything = replace(everything, negatives=Given(further))
    objective = replace(PLAIN, history=history, further_negatives=len(further))
    found, _, _ = step_losses(model, everything, objective, rows)

    def past(row: int) -> Tensor | None:
        query, time, _ = log[row]
        earlier = [item for q, t, item in log if q == query and t < time]
        return average_of(model, earlier[-history:]) if history else None

    queries = torch.cat([model.query(bags_of(QUERIES, torch.tensor([log[row][0]])), past(row)) for row in rows])
    items = torch.cat([model.item(bags_of(ITEMS, torch.tensor([item]))) for item in candidates])
    took = {(query, item) for query, _, item in log}
    expected = slow_softmax(
        queries,
        items,
        [everything.log_q[item].item() for item in candidates],
        lambda i, j: (log[rows[i]][0], candidates[j]) in took,
        0.1,
    )
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def average_of(model: TwoTower, items: list[int]) -> Tensor:
    """Average the features of some items, one by one: (1, K, E); without items, those of an unknown item."""
    bags = [bags_of(ITEMS, torch.tensor([item])) for item in items] or [features.nothing_known(ITEMS, 1)]
    parts = [model.item.features(model.embeddings(bag, model.item.starts), bag) for bag in bags]
    return torch.stack(parts).mean(0)


def test_without_a_clock_a_query_is_everything_else_that_it_took() -> None:
    log = [(0, 0, 1), (0, 0, 2), (0, 0, 5), (3, 0, 2)]
    model, data = model_of(history=True), data_of(log)
    data = replace(data, log=replace(data.log, until=None), negatives=Given([7]))
    found, _, _ = step_losses(model, data, replace(PLAIN, history=9, further_negatives=1), [1, 3, 0])
    asking, rest, items = (0, 3, 0), ([1, 5], [], [2, 5]), (2, 2, 1, 7)
    queries = torch.cat(
        [
            model.query(bags_of(QUERIES, torch.tensor([query])), average_of(model, taken))
            for query, taken in zip(asking, rest, strict=True)
        ]
    )
    vectors = torch.cat([model.item(bags_of(ITEMS, torch.tensor([item]))) for item in items])
    took = {(query, item) for query, _, item in log}
    shift = [data.log_q[item].item() for item in items]
    expected = slow_softmax(queries, vectors, shift, lambda i, j: (asking[i], items[j]) in took, 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("rate", "histories"), [(1.0, [[], []]), (0.0, [[1], [4]])])
def test_a_hidden_history_is_that_of_an_unknown_item(rate: float, histories: list[list[int]]) -> None:
    log = [(0, 0, 1), (0, 1, 2), (3, 0, 4), (3, 2, 5)]
    model, data = model_of(history=True), data_of(log)
    objective = replace(PLAIN, history=9, history_dropout=rate, query_id_dropout=rate)
    found, _, _ = step_losses(model, data, objective, [1, 3])
    known = bags_of(QUERIES, torch.tensor([0])), bags_of(QUERIES, torch.tensor([3]))
    asked = known if rate == 0 else [features.nothing_known(QUERIES, 1)] * 2
    queries = torch.cat(
        [model.query(one, average_of(model, items)) for one, items in zip(asked, histories, strict=True)]
    )
    vectors = torch.cat([model.item(bags_of(ITEMS, torch.tensor([item]))) for item in (2, 5)])
    shift = [data.log_q[item].item() for item in (2, 5)]
    expected = slow_softmax(queries, vectors, shift, lambda i, j: i == j, 0.1)
    assert expected > 0.1
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_a_clock_keeps_the_target_and_what_is_later_out_of_the_loss() -> None:
    """The vectors of later items move without a change of the loss, but for their part as candidates."""
    model, data = model_of(history=True), data_of([(0, 0, 1), (0, 1, 2), (0, 2, 5), (1, 0, 3)])
    objective = replace(PLAIN, history=9)
    loss = step_losses(model, data, objective, [1, 3])[0].item()
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["item_id"] + 5 + 2] += 1
    assert step_losses(model, data, objective, [1, 3])[0].item() == loss
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["item_id"] + 1 + 2] += 1
    assert step_losses(model, data, objective, [1, 3])[0].item() != loss


def test_log_p_is_taken_from_the_item_and_zeros_switch_it_off() -> None:
    model, data = model_of(), data_of([(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 1)])

    def loss(log_p: Tensor) -> float:
        return step_losses(model, replace(data, log_q=log_p), PLAIN, [0, 3])[0].item()

    plain, corrected = loss(torch.zeros(N)), loss(data.log_q)
    assert corrected != pytest.approx(plain, rel=1e-3)
    assert loss(data.log_q + 5) == pytest.approx(corrected, rel=1e-4)
    elsewhere = data.log_q.clone()
    elsewhere[2:] -= 3  # items that are not in the batch
    assert loss(elsewhere) == corrected


# --- the self-supervised loss ---


def hidden_by_hand(row: int, keep: Tensor) -> EncodedTable:
    """Return one item without the values that a view hides; a feature without values has code 0."""
    at, bags = int(ITEMS.offsets[row * 3]), []
    for bag in ITEM_BAGS[row * 3 : row * 3 + 3]:
        bags.append([code for place, code in enumerate(bag, at) if keep[place]] or [0])
        at += len(bag)
    return table_of(KINDS, bags, IMAGES[row : row + 1])


@given(st.integers(1, 12), st.integers(0, 99), st.booleans(), st.sampled_from([0.1, 1.0]))
@few
def test_the_ssl_loss_is_the_formula_on_tables_hidden_by_hand(size: int, seed: int, shared: bool, tau: float) -> None:
    model, views = model_of(seed), views_of(3, seed)
    ids, variants = sampling.ssl_draw(N, size, 3, (seed, 1, 2), shared_seed=shared)
    drawn = list(zip(ids.tolist(), variants.tolist(), strict=True))
    objective = replace(PLAIN, ssl=SelfSupervision(0.3, size, tau, shared_seed=shared))
    _, found, _ = step_losses(model, data_of(views=views), objective, [0, 1], (seed, 1, 2))
    view_a, view_b = (
        torch.cat(
            [model.item(bags_of(hidden_by_hand(row, keep[variant]), torch.tensor([0]))) for row, variant in drawn]
        )
        for keep in masks_of(3, seed)
    )
    expected = slow_softmax(view_a, view_b, [0.0] * len(drawn), lambda i, j: drawn[i][0] == drawn[j][0], tau)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_views_of_another_variant_give_another_loss() -> None:
    """Control for the test above: each row is hidden by the variant drawn for it."""
    model, views, rows = model_of(), views_of(2), torch.arange(6)

    def loss(*variants: int) -> float:
        view_a, view_b = (model.item(bags) for bags in view_pair(ITEMS, views, rows, torch.tensor(variants)))
        return losses.self_supervised(view_a, view_b, pairs_of_equal(rows, rows), 0.5).item()

    assert len({loss(0, 0, 0, 0, 0, 0), loss(1, 1, 1, 1, 1, 1), loss(0, 1, 0, 1, 0, 1)}) == 3


def test_what_both_views_hide_is_not_in_the_ssl_loss() -> None:
    """Ids and images are hidden in both views: their vectors get no gradient, those of words do."""
    keep = torch.zeros(1, len(ITEMS.codes), dtype=torch.bool)
    for row in range(N):
        start, end = ITEMS.offsets[row * 3 + 1], ITEMS.offsets[row * 3 + 2]
        keep[0, start:end] = True
    model, objective = model_of(), replace(PLAIN, ssl=replace(SSL, batch_size=200))
    step_losses(model, data_of(views=stored(torch.stack([keep, keep]))), objective, [0])[1].backward()
    grad, starts = model.embeddings.weight.grad.to_dense(), model.embeddings.starts
    assert not grad[starts["item_id"] + 2 : starts["item_id"] + 2 + N].any()
    assert grad[starts["item_id"]].any()  # the default id vector replaces hidden ids
    assert (grad[starts["words"] + 2 : starts["words"] + 2 + N].abs().sum(1) > 0).all()
    assert not any(weight.grad.any() for weight in model.item.project.parameters())
    assert all(weight.grad is None for weight in model.query.layers.parameters())  # the views use the item tower alone


# --- neighbours ---


def drawn_pairs(size: int, key: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return (item, neighbour) for the items of a step that have a neighbour."""
    ids, variants = sampling.ssl_draw(N, size, 3, key, shared_seed=False)
    drawn = zip(ids.tolist(), variants.tolist(), strict=True)
    return [(item, neighbour_of(item, variant)) for item, variant in drawn if item != N - 1]


def test_the_loss_of_neighbours_is_the_formula_on_whole_items() -> None:
    """Queries have other features than items, so the item tower embeds both item and neighbour."""
    model, key = model_of(4), (4, 1, 2)
    apart = replace(BESIDE, ssl=replace(BESIDE.ssl, neighbour_weight=0.0))
    found, alone = (step_losses(model, data_of(), objective, [0, 1], key)[1] for objective in (BESIDE, apart))
    pairs = drawn_pairs(7, key)
    items, neighbours = (model.item(bags_of(ITEMS, torch.tensor(side))) for side in zip(*pairs, strict=True))
    expected = slow_softmax(
        items, neighbours, [0.0] * len(pairs), lambda i, j: pairs[j][1] in (pairs[i][0], pairs[i][1]), 0.2
    )
    assert (found - alone).item() == pytest.approx(0.6 * expected, rel=1e-3)


def test_where_queries_are_items_the_query_tower_asks_for_the_neighbour() -> None:
    """Query features are the items' words, then their ids: the item's words and id fill both."""
    kinds = {"words": Kind.MULTI_VALUED, "item_id": Kind.ID}
    queries = table_of(kinds, [bag for q in range(8) for bag in (ITEM_BAGS[3 * q + 1], ITEM_BAGS[3 * q])])
    model = towers.two_tower(
        ITEMS, queries, VOCABULARIES, embedding_width=6, hidden=[12], width=8, history=False, seed=4
    )
    data, key = replace(data_of(), queries=queries), (4, 1, 2)
    apart = replace(BESIDE, ssl=replace(BESIDE.ssl, neighbour_weight=0.0))
    found, alone = (step_losses(model, data, objective, [0, 1], key)[1] for objective in (BESIDE, apart))
    pairs = drawn_pairs(7, key)
    as_queries = table_of(kinds, [bag for item, _ in pairs for bag in (ITEM_BAGS[3 * item + 1], ITEM_BAGS[3 * item])])
    asking = model.query(bags_of(as_queries, torch.arange(len(pairs))))
    neighbours = model.item(bags_of(ITEMS, torch.tensor([neighbour for _, neighbour in pairs])))
    expected = slow_softmax(
        asking, neighbours, [0.0] * len(pairs), lambda i, j: pairs[j][1] in (pairs[i][0], pairs[i][1]), 0.2
    )
    assert (found - alone).item() == pytest.approx(0.6 * expected, rel=1e-3)


def test_where_queries_have_a_history_somebody_who_took_the_item_asks_for_its_neighbour() -> None:
    model, key = model_of(4, history=True), (4, 1, 2)
    objective = replace(BESIDE, history=2)
    apart = replace(objective, ssl=replace(BESIDE.ssl, neighbour_weight=0.0))
    (main, found, _), (same, alone, _) = (
        step_losses(model, data_of(), each, [0, 1], key) for each in (objective, apart)
    )
    assert main.item() == pytest.approx(same.item(), rel=1e-6)
    pairs = drawn_pairs(7, key)
    ones = torch.ones(len(pairs), dtype=torch.int64)
    taken = torch.cat([average_of(model, [item]) for item, _ in pairs])
    asking = model.query(Bags(torch.zeros_like(ones), ones, {}), taken)
    neighbours = model.item(bags_of(ITEMS, torch.tensor([neighbour for _, neighbour in pairs])))
    expected = slow_softmax(
        asking, neighbours, [0.0] * len(pairs), lambda i, j: pairs[j][1] in (pairs[i][0], pairs[i][1]), 0.2
    )
    assert (found - alone).item() == pytest.approx(0.6 * expected, rel=1e-3)
    warm_up = next(Planner(data_of(), objective, model, 4).warm_up())()
    assert loop.step_losses(model, warm_up, objective)[2].item() > 0


def test_a_query_of_which_nothing_is_known_has_the_default_of_every_feature() -> None:
    table = table_of({"a": Kind.CATEGORICAL, "image": Kind.DENSE}, [[2], [1]], torch.ones(1, 2))
    found = features.nothing_known(table, 3)
    assert found.codes.tolist() == [0] * 6
    assert found.lengths.tolist() == [1] * 6
    assert found.dense["image"].tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("kinds", "places"),
    [
        ({"item_id": Kind.ID, "words": Kind.MULTI_VALUED}, [0, 1]),
        ({"words": Kind.MULTI_VALUED, "age": Kind.CATEGORICAL}, [1, None]),
        ({"item_id": Kind.ID, "age": Kind.CATEGORICAL}, None),  # an id alone does not describe a new item
        ({"user": Kind.ID}, None),
        ({"item_id": Kind.ID, "words": Kind.MULTI_VALUED, "image": Kind.DENSE}, None),
    ],
)
def test_items_ask_only_where_queries_are_described_as_they_are(
    kinds: dict[str, Kind], places: list[int | None] | None
) -> None:
    queries = table_of(kinds, [[0] for _ in kinds], torch.zeros(1, 2) if "image" in kinds else None)
    planner = Planner(replace(data_of(), queries=queries), BESIDE, model_of(), 0)
    assert planner.as_query == places
    assert Planner(planner.data, replace(BESIDE, history=2), model_of(history=True), 0).as_query is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
@few
def test_a_neighbour_drawn_by_another_item_is_a_negative_unless_it_is_ones_own_or_oneself(
    pairs: list[tuple[int, int]],
) -> None:
    items, neighbours = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    found = not_negatives(items, neighbours)
    cells = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert set(cells) == {(i, j) for i in range(len(pairs)) for j in range(len(pairs)) if pairs[j][1] in pairs[i]}
    assert found.bounds == [sum(row < until for row, _ in cells) for until in range(len(pairs) + 1)]
    assert [row for row, _ in cells] == sorted(row for row, _ in cells)


def test_an_item_stands_for_a_query_by_vocabulary_where_no_query_has_a_vector() -> None:
    def queries(**vocabularies: Kind) -> EncodedTable:
        table = table_of(vocabularies, [[0] for _ in vocabularies])
        return replace(table, names=tuple(f"own {name}" for name in vocabularies))

    assert _as_query(ITEMS, queries(words=Kind.MULTI_VALUED, user=Kind.ID)) == [1, None]
    assert _as_query(ITEMS, queries(user=Kind.ID)) is None
    assert _as_query(ITEMS, queries(words=Kind.MULTI_VALUED, image=Kind.DENSE)) is None


def test_a_batch_in_which_nobody_has_a_neighbour_has_the_loss_of_the_views_alone() -> None:
    views = replace(views_of(3), neighbours=torch.full((3 * N,), -1, dtype=torch.int32))
    apart = replace(BESIDE, ssl=replace(BESIDE.ssl, neighbour_weight=0.0))
    found, alone = (
        step_losses(model_of(), data_of(views=views), objective, [0, 1])[2] for objective in (BESIDE, apart)
    )
    assert found.item() == alone.item()
