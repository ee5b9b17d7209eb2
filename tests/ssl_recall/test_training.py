import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_recall import batches, blockwise, losses, optimisers, steps, training
from ssl_recall import views as view_masks
from ssl_recall.features import Bags, EncodedTable, Kind, bags_of
from ssl_recall.pairs import not_negatives, pairs_of_equal
from ssl_recall.steps import Objective, SelfSupervision, TrainingData
from ssl_recall.towers import TwoTower
from ssl_recall.training import StepLosses
from ssl_recall.views import Packed

few = settings(max_examples=12, deadline=None)
N = 10  # items; the last two are in nobody's log
VOCABULARIES = {"item_id": 2 + N, "words": 2 + N + 3, "image": 2, "user": 2 + 8}
KINDS = {"item_id": Kind.ID, "words": Kind.MULTI_VALUED, "image": Kind.DENSE}
SSL = SelfSupervision(weight=0.3, batch_size=6, temperature=0.2, shared_seed=False)
PLAIN = Objective(batch_size=4, temperature=0.1, further_negatives=0, id_dropout=0.0, history=0, ssl=None)
WITH_SSL = replace(PLAIN, ssl=SSL, id_dropout=0.2)


def table_of(kinds: dict[str, Kind], bags: list[list[int]], dense: Tensor | None = None) -> EncodedTable:
    """A table from its bags, row after row."""
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    vectors = {} if dense is None else {"image": dense}
    return EncodedTable(tuple(kinds), tuple(kinds.values()), tuple(kinds), codes, offsets, vectors)


# Item i has the id i + 2, a word of its own, a word shared by every third item, and an image unless i is odd.
ITEM_BAGS = [bag for i in range(N) for bag in ([i + 2], [i + 2, N + 2 + i % 3], [1 - i % 2])]
IMAGES = torch.randn(N, 2, generator=torch.Generator().manual_seed(3))
ITEMS = table_of(KINDS, ITEM_BAGS, IMAGES)
QUERIES = table_of({"user": Kind.ID}, [[q + 2] for q in range(8)])


def views_of(variants: int, seed: int = 0) -> Packed:
    return stored(masks_of(variants, seed))


def masks_of(variants: int, seed: int) -> Tensor:
    return torch.rand(2, variants, len(ITEMS.codes), generator=torch.Generator().manual_seed(seed)) < 0.6


def stored(keep: Tensor) -> Packed:
    """Views of the items as views.parquet holds them, from (2, variants, V) bool."""
    _, variants, _ = keep.shape
    packed = [[view_masks.pack(mask.numpy(), ITEMS.offsets, len(KINDS)) for mask in side] for side in keep]
    columns = [pl.Series([side[v][n] for n in range(N) for v in range(variants)], dtype=pl.Binary) for side in packed]
    frame = pl.DataFrame({"variant": list(range(variants)) * N, "keep_a": columns[0], "keep_b": columns[1]})
    beside = [None if n == N - 1 else neighbour_of(n, v) for n in range(N) for v in range(variants)]
    frame = frame.with_columns(neighbour_index=pl.Series(beside, dtype=pl.Int32))
    return view_masks.packed([frame[:7], frame[7:]], ITEMS.offsets, len(KINDS), variants)


def neighbour_of(item: int, variant: int) -> int:
    """The neighbour in those views of every item but the last, which has none."""
    return (item + 3 + variant) % N


def data_of(events: list[tuple[int, int, int]] | None = None, views: Packed | None = None) -> TrainingData:
    """A log of (query, time, item) events; left out, each of 8 queries takes its own item."""
    events = [(q, 0, q) for q in range(8)] if events is None else events
    queries, times, items = (torch.tensor([event[i] for event in events], dtype=torch.int64) for i in range(3))
    log = batches.interactions(queries, items, QUERIES.rows, times)
    counts = torch.bincount(items, minlength=N).double() + 0.5
    pool = batches.negative_pool(torch.bincount(items, minlength=N), 1.0)
    return TrainingData(ITEMS, QUERIES, log, (counts / counts.sum()).log().float(), pool, views or views_of(3))


def model_of(seed: int = 0, history: bool = False) -> TwoTower:
    return training.two_tower(
        ITEMS, QUERIES, VOCABULARIES, embedding_width=6, hidden=[12], width=8, history=history, seed=seed
    )


def steppers_of(model: TwoTower) -> list[torch.optim.Optimizer]:
    return training.optimisers(model, 0.01, 0.1, 0.0)


def epoch_of(
    model: TwoTower,
    steppers: list[torch.optim.Optimizer],
    data: TrainingData,
    objective: Objective,
    *,
    seed: int,
    epoch: int,
) -> Iterator[StepLosses]:
    return training.train_epoch(model, steppers, steps.Planner(data, objective, model, seed), epoch)


def step_losses(
    model: TwoTower, data: TrainingData, objective: Objective, rows: list[int], key: tuple[int, int, int] = (0, 0, 0)
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of the step of these rows; `key` is (seed, epoch, step)."""
    seed, *place = key
    return training.step_losses(
        model, steps.Planner(data, objective, model, seed).step(torch.tensor(rows), *place), objective
    )


@dataclass(frozen=True)
class Given:
    """Further negatives that are not drawn."""

    items: list[int]

    def draw(self, size: int, key: tuple[int, int, int]) -> Tensor:
        return torch.tensor(self.items, dtype=torch.int64)


def trained(objective: Objective, *, seed: int = 0, epochs: int = 1, data: TrainingData | None = None) -> TwoTower:
    model, data = model_of(seed, objective.history > 0), data or data_of()
    steppers = steppers_of(model)
    for epoch in range(epochs):
        for _ in epoch_of(model, steppers, data, objective, seed=seed, epoch=epoch):
            pass
    return model


def weights_of(model: TwoTower) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gradients(model: TwoTower, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [weight.grad.to_dense().clone() for weight in model.parameters() if weight.grad is not None]


def slow_softmax(
    a: Tensor, b: Tensor, shift: list[float], no_negative: Callable[[int, int], bool], tau: float
) -> float:
    """The paper's formulas: mean over i of -log of exp(s_ii / tau - shift_i) over the sum of the columns that count."""
    rows, columns = a.detach().double().tolist(), b.detach().double().tolist()
    total = 0.0
    for i, row in enumerate(rows):
        weight = [
            math.exp(math.fsum(x * y for x, y in zip(row, column, strict=True)) / tau - shift[j])
            for j, column in enumerate(columns)
        ]
        kept = [j for j in range(len(columns)) if j == i or not no_negative(i, j)]
        total -= math.log(weight[i] / math.fsum(weight[j] for j in kept))
    return total / len(rows)


# --- learning ---


@pytest.mark.parametrize("objective", [PLAIN, replace(PLAIN, ssl=SSL)], ids=["without SSL", "with SSL"])
def test_a_tiny_log_is_learned_by_heart(objective: Objective) -> None:
    model, data = model_of(), data_of()
    steppers = steppers_of(model)
    curve = [
        training.mean_losses(list(epoch_of(model, steppers, data, objective, seed=0, epoch=epoch)))["main"]
        for epoch in range(40)
    ]
    assert sum(curve[-5:]) < 0.3 * sum(curve[:5])
    items = training.embed_items(model, ITEMS)
    queries = training.embed_queries(model, QUERIES, data.log, ITEMS, 0)
    assert (queries @ items.T).argmax(1).tolist() == list(range(8))


def test_self_supervision_reaches_items_that_nobody_took_and_the_main_task_does_not() -> None:
    """Item 9's own word is in no interaction."""
    own_word = model_of().embeddings.starts["words"] + 9 + 2
    first = model_of().embeddings.weight[own_word]
    assert torch.equal(trained(PLAIN, epochs=3).embeddings.weight[own_word], first)
    assert not torch.equal(trained(WITH_SSL, epochs=3).embeddings.weight[own_word], first)


def test_a_history_alone_can_tell_queries_apart() -> None:
    """Users without an id vector of their own: what they took before says what they take next."""
    events = [event for q in range(4) for event in ((q, 0, q), (q, 1, q + 4))]
    data = data_of(events)
    unknown = table_of({"user": Kind.ID}, [[0]] * 8)
    data = replace(data, queries=unknown)
    model = training.two_tower(
        ITEMS, unknown, VOCABULARIES, embedding_width=6, hidden=[12], width=8, history=True, seed=0
    )
    steppers = steppers_of(model)
    objective = replace(PLAIN, history=2, batch_size=8)
    for epoch in range(80):
        list(epoch_of(model, steppers, data, objective, seed=0, epoch=epoch))
    past = batches.history_bags(data.log.items, data.log.offsets[:4], data.log.offsets[:4] + 1, 2, ITEMS)
    with torch.no_grad():
        scores = model.query(bags_of(unknown, torch.arange(4)), past) @ training.embed_items(model, ITEMS)[4:8].T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


# --- determinism ---


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL, replace(WITH_SSL, history=2)])
def test_one_seed_gives_one_model_bit_for_bit(objective: Objective) -> None:
    torch.manual_seed(1)
    first = weights_of(trained(objective, seed=5, epochs=2))
    torch.manual_seed(2)  # the global generator has no say
    assert same(weights_of(trained(objective, seed=5, epochs=2)), first)
    assert not same(weights_of(trained(objective, seed=6, epochs=2)), first)


def test_the_epochs_draws_depend_on_the_seed_and_not_only_the_first_weights() -> None:
    def curve(seed: int, epoch: int) -> list[StepLosses]:
        model = model_of(seed=0)
        return list(epoch_of(model, steppers_of(model), data_of(), WITH_SSL, seed=seed, epoch=epoch))

    assert curve(1, 0) == curve(1, 0)
    assert len({tuple(map(str, curve(*key))) for key in ((1, 0), (1, 1), (0, 1), (2, 0))}) == 4


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    trained(replace(WITH_SSL, history=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("forget", [None, 0, 1], ids=["nothing", "Adagrad", "AdamW"])
def test_stopping_between_epochs_changes_nothing_unless_an_optimiser_is_forgotten(forget: int | None) -> None:
    straight = weights_of(trained(WITH_SSL, epochs=2))
    first = model_of()
    steppers = steppers_of(first)
    list(epoch_of(first, steppers, data_of(), WITH_SSL, seed=0, epoch=0))
    second = model_of(seed=77)
    second.load_state_dict(first.state_dict())
    resumed = steppers_of(second)
    for number, (old, new) in enumerate(zip(steppers, resumed, strict=True)):
        if number != forget:
            new.load_state_dict(copy.deepcopy(old.state_dict()))
    list(epoch_of(second, resumed, data_of(), WITH_SSL, seed=0, epoch=1))
    assert same(weights_of(second), straight) == (forget is None)


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

    def past(row: int) -> Bags | None:
        query, time, _ = log[row]
        earlier = [item + 2 for q, t, item in log if q == query and t < time]
        codes = torch.tensor(earlier[-history:] or [0])
        return Bags(codes, torch.tensor([len(codes)]), {}) if history else None

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


# --- hiding ids ---


def test_about_the_rate_of_ids_is_hidden_and_nothing_else() -> None:
    """4,000 rows at 0.3: 1,200 expected, standard deviation 29; of the queries and of the items, popular or not."""
    log = [(q, time, item) for q in range(8) for time, item in enumerate([*range(5)] * 100)]
    objective = replace(PLAIN, id_dropout=0.3, batch_size=4000)
    model = model_of()
    step = steps.Planner(data_of(log), objective, model, 0).step(torch.arange(4000), 0, 0)
    plain = steps.Planner(data_of(log), PLAIN, model, 0).step(torch.arange(4000), 0, 0)
    assert abs((step.queries.codes == 0).sum().item() - 1200) < 4 * 29
    assert torch.equal(step.queries.codes[step.queries.codes > 0], plain.queries.codes[step.queries.codes > 0])
    ids = step.items.codes[step.items.starts.view(-1, 3)[:, 0]]
    assert sorted(ids.tolist()) == [0] * 5 + [2, 3, 4, 5, 6]  # each item once with its id and once without
    hidden = ids[step.own] == 0
    assert abs(hidden.sum().item() - 1200) < 4 * 29
    words = step.items.codes[step.items.starts.view(-1, 3)[:, 1]]
    for item in range(5):
        assert 0.15 < hidden[words[step.own] == item + 2].double().mean() < 0.45
    assert step.times.sum() == 4000
    assert torch.equal(step.times.long(), torch.bincount(step.own, minlength=10))
    assert sorted(plain.items.codes[plain.items.starts.view(-1, 3)[:, 0]].tolist()) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(("rate", "hidden"), [(0.0, 0), (1.0, 8)])
def test_the_ends_of_the_rate_hide_nothing_and_everything(rate: float, hidden: int) -> None:
    objective = replace(PLAIN, id_dropout=rate)
    step = steps.Planner(data_of(), objective, model_of(), 0).step(torch.arange(8), 0, 0)
    assert (step.queries.codes == 0).sum() == hidden
    assert (step.items.codes[step.items.starts.view(-1, 3)[:, 0]] == 0).sum() == hidden


def test_the_id_is_hidden_wherever_it_stands_and_a_table_without_ids_loses_nothing() -> None:
    last = table_of({"words": Kind.MULTI_VALUED, "item_id": Kind.ID}, [[2, 3], [4], [5, 6, 7], [8]])
    bags = bags_of(last, torch.arange(2))
    found = steps.hide_ids(bags, last, torch.tensor([True, True]))
    assert found.codes.tolist() == [2, 3, 0, 5, 6, 7, 0]
    assert bags.codes.tolist() == [2, 3, 4, 5, 6, 7, 8]  # the bags given are left as they were
    assert steps.hide_ids(bags, last, torch.tensor([False, True])).codes.tolist() == [2, 3, 4, 5, 6, 7, 0]
    no_ids = table_of({"words": Kind.MULTI_VALUED}, [[2, 3], [4]])
    found = steps.hide_ids(bags_of(no_ids, torch.arange(2)), no_ids, torch.tensor([True, True]))
    assert found.codes.tolist() == [2, 3, 4]


# --- the self-supervised loss ---


def hidden_by_hand(row: int, keep: Tensor) -> EncodedTable:
    """One item with the values that a view does not keep taken out, 0 where a feature loses all."""
    at, bags = int(ITEMS.offsets[row * 3]), []
    for bag in ITEM_BAGS[row * 3 : row * 3 + 3]:
        bags.append([code for place, code in enumerate(bag, at) if keep[place]] or [0])
        at += len(bag)
    return table_of(KINDS, bags, IMAGES[row : row + 1])


@given(st.integers(1, 12), st.integers(0, 99), st.booleans(), st.sampled_from([0.1, 1.0]))
@few
def test_the_ssl_loss_is_the_formula_on_tables_hidden_by_hand(size: int, seed: int, shared: bool, tau: float) -> None:
    model, views = model_of(seed), views_of(3, seed)
    ids, variants = batches.ssl_draw(N, size, 3, (seed, 1, 2), shared_seed=shared)
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
    """The control: each row is hidden by its own variant."""
    model, views, rows = model_of(), views_of(2), torch.arange(6)

    def loss(*variants: int) -> float:
        view_a, view_b = (model.item(bags) for bags in steps.view_pair(ITEMS, views, rows, torch.tensor(variants)))
        return losses.self_supervised(view_a, view_b, pairs_of_equal(rows, rows), 0.5).item()

    assert len({loss(0, 0, 0, 0, 0, 0), loss(1, 1, 1, 1, 1, 1), loss(0, 1, 0, 1, 0, 1)}) == 3


def test_what_both_views_hide_is_not_in_the_ssl_loss() -> None:
    """Ids and images hidden in both views: their vectors get no gradient, the words' do."""
    keep = torch.zeros(1, len(ITEMS.codes), dtype=torch.bool)
    for row in range(N):
        start, end = ITEMS.offsets[row * 3 + 1], ITEMS.offsets[row * 3 + 2]
        keep[0, start:end] = True
    model, objective = model_of(), replace(PLAIN, ssl=replace(SSL, batch_size=200))
    step_losses(model, data_of(views=stored(torch.stack([keep, keep]))), objective, [0])[1].backward()
    grad, starts = model.embeddings.weight.grad.to_dense(), model.embeddings.starts
    assert not grad[starts["item_id"] + 2 : starts["item_id"] + 2 + N].any()
    assert grad[starts["item_id"]].any()  # the default id vector stands in
    assert (grad[starts["words"] + 2 : starts["words"] + 2 + N].abs().sum(1) > 0).all()
    assert not any(weight.grad.any() for weight in model.item.project.parameters())
    assert all(weight.grad is None for weight in model.query.layers.parameters())  # the item tower alone


# --- neighbours ---


BESIDE = replace(PLAIN, ssl=SelfSupervision(0.3, 7, 0.2, shared_seed=False, neighbour_weight=0.6, warm_up=3))


def drawn_pairs(size: int, key: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The items of a step that have a neighbour, and it."""
    ids, variants = batches.ssl_draw(N, size, 3, key, shared_seed=False)
    drawn = zip(ids.tolist(), variants.tolist(), strict=True)
    return [(item, neighbour_of(item, variant)) for item, variant in drawn if item != N - 1]


def test_the_loss_of_neighbours_is_the_formula_on_whole_items() -> None:
    """Queries that are described otherwise than items: both vectors are the item tower's."""
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
    """Queries have the items' words, first, then their ids: the item's own stand for both."""
    kinds = {"words": Kind.MULTI_VALUED, "item_id": Kind.ID}
    queries = table_of(kinds, [bag for q in range(8) for bag in (ITEM_BAGS[3 * q + 1], ITEM_BAGS[3 * q])])
    model = training.two_tower(
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
    taken = Bags(torch.tensor([item + 2 for item, _ in pairs]), ones, {})
    asking = model.query(Bags(torch.zeros_like(ones), ones, {}), taken)
    neighbours = model.item(bags_of(ITEMS, torch.tensor([neighbour for _, neighbour in pairs])))
    expected = slow_softmax(
        asking, neighbours, [0.0] * len(pairs), lambda i, j: pairs[j][1] in (pairs[i][0], pairs[i][1]), 0.2
    )
    assert (found - alone).item() == pytest.approx(0.6 * expected, rel=1e-3)
    warm_up = next(steps.Planner(data_of(), objective, model, 4).warm_up())
    assert training.step_losses(model, warm_up, objective)[2].item() > 0


def test_a_query_of_which_nothing_is_known_has_the_default_of_every_feature() -> None:
    table = table_of({"a": Kind.CATEGORICAL, "image": Kind.DENSE}, [[2], [1]], torch.ones(1, 2))
    found = steps.nothing_known(table, 3)
    assert found.codes.tolist() == [0] * 6
    assert found.lengths.tolist() == [1] * 6
    assert found.dense["image"].tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("kinds", "places"),
    [
        ({"item_id": Kind.ID, "words": Kind.MULTI_VALUED}, [0, 1]),
        ({"words": Kind.MULTI_VALUED, "age": Kind.CATEGORICAL}, [1, None]),
        ({"item_id": Kind.ID, "age": Kind.CATEGORICAL}, None),  # a new item's id says nothing
        ({"user": Kind.ID}, None),
        ({"item_id": Kind.ID, "words": Kind.MULTI_VALUED, "image": Kind.DENSE}, None),
    ],
)
def test_items_ask_only_where_queries_are_described_as_they_are(
    kinds: dict[str, Kind], places: list[int | None] | None
) -> None:
    queries = table_of(kinds, [[0] for _ in kinds], torch.zeros(1, 2) if "image" in kinds else None)
    planner = steps.Planner(replace(data_of(), queries=queries), BESIDE, model_of(), 0)
    assert planner.as_query == places
    assert steps.Planner(planner.data, replace(BESIDE, history=2), model_of(history=True), 0).as_query is None


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

    assert steps._as_query(ITEMS, queries(words=Kind.MULTI_VALUED, user=Kind.ID)) == [1, None]
    assert steps._as_query(ITEMS, queries(user=Kind.ID)) is None
    assert steps._as_query(ITEMS, queries(words=Kind.MULTI_VALUED, image=Kind.DENSE)) is None


def test_a_batch_in_which_nobody_has_a_neighbour_has_the_loss_of_the_views_alone() -> None:
    views = replace(views_of(3), neighbours=torch.full((3 * N,), -1, dtype=torch.int32))
    apart = replace(BESIDE, ssl=replace(BESIDE.ssl, neighbour_weight=0.0))
    found, alone = (
        step_losses(model_of(), data_of(views=views), objective, [0, 1])[2] for objective in (BESIDE, apart)
    )
    assert found.item() == alone.item()


# --- the warm-up ---


def test_the_warm_up_is_the_self_supervised_task_alone_at_its_full_weight() -> None:
    model, data = model_of(), data_of()
    planned = list(steps.Planner(data, BESIDE, model, 0).warm_up())
    assert len(planned) == 3
    for number, step in enumerate(planned):
        main, ssl, total = training.step_losses(model, step, BESIDE)
        assert main.item() == 0
        assert total.item() == ssl.item() > 0
        of_a_step = step_losses(model, data, BESIDE, [0, 1], (0, batches.WARM_UP, number))[1]
        assert ssl.item() == pytest.approx(of_a_step.item(), rel=1e-5)


def test_the_warm_up_moves_what_the_views_touch_and_leaves_the_users_alone() -> None:
    model, data = model_of(), data_of()
    before = [weight.clone() for weight in weights_of(model)]
    planner = steps.Planner(data, BESIDE, model, 0)
    taken = list(training.warm_up(model, steppers_of(model), planner))
    assert len(taken) == 3
    start, end = model.embeddings.starts["user"], model.embeddings.starts["user"] + VOCABULARIES["user"]
    now = model.embeddings.weight
    assert torch.equal(now[start:end], before[0][start:end])
    assert not torch.equal(now[:start], before[0][:start])


def test_the_running_average_takes_the_warm_up_in() -> None:
    model = model_of()
    average = optimisers.RunningAverage(training.dense_weights(model), 0.0)
    list(training.warm_up(model, steppers_of(model), steps.Planner(data_of(), BESIDE, model, 0), average))
    assert all(torch.allclose(*pair) for pair in zip(average.average, average.weights, strict=True))


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL])
def test_without_self_supervision_or_steps_there_is_no_warm_up(objective: Objective) -> None:
    model = model_of()
    assert not list(training.warm_up(model, steppers_of(model), steps.Planner(data_of(), objective, model, 0)))


def test_a_number_that_the_warm_up_meets_is_named() -> None:
    model = model_of()
    with torch.no_grad():
        model.item.layers[0].weight.fill_(math.nan)
    with pytest.raises(losses.NonFiniteError, match="warm-up, step 0: loss nan"):
        list(training.warm_up(model, steppers_of(model), steps.Planner(data_of(), BESIDE, model, 0)))


# --- feature dropout ---


def test_feature_dropout_hides_about_its_share_of_the_candidates_features_and_no_id() -> None:
    """Words and images of 4,000 interactions' items; what the self-supervised task shows stays as it was."""
    log = [(row // 500, 0, row % N) for row in range(4000)]
    model, data = model_of(), data_of(log)
    dropped = replace(WITH_SSL, id_dropout=0.5, further_negatives=4000, feature_dropout=0.3)
    plain, hidden = (
        steps.Planner(data, objective, model, 0).step(torch.arange(4000), 0, 0)
        for objective in (replace(dropped, feature_dropout=0.0), dropped)
    )
    count = len(plain.times)
    assert torch.equal(plain.times, hidden.times)
    before, after = (
        [codes.tolist() for codes in step.items.codes.split(step.items.lengths.tolist())] for step in (plain, hidden)
    )
    assert before[3 * count :] == after[3 * count :]
    assert before[: 3 * count : 3] == after[: 3 * count : 3]
    features = [at for at in range(3 * count) if at % 3 and before[at] != [0]]
    assert all(after[at] in (before[at], [0]) for at in features)
    assert 0 < sum(after[at] == [0] for at in features) < len(features)


def test_feature_dropout_hides_each_feature_by_its_own_draw() -> None:
    bags = bags_of(ITEMS, torch.arange(N).repeat(400))
    source = batches.generator(1)
    found = steps.drop_features(bags, ITEMS, 0.3, source)
    firsts = found.codes[found.starts].view(-1, 3)
    assert (firsts[:, 0] == bags.codes[bags.starts].view(-1, 3)[:, 0]).all()
    hidden = firsts[:, 1] == 0
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)
    pictured = bags.codes[bags.starts].view(-1, 3)[:, 2] == 1
    both = (hidden & (firsts[:, 2] == 0))[pictured].double().mean().item()
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 2000) ** 0.5)


# --- the sum of the two ---


def test_with_an_ssl_weight_of_0_the_gradients_are_those_of_the_main_loss() -> None:
    def found(weight: float) -> tuple[list[Tensor], list[Tensor]]:
        """Of the main loss, and of the joint one."""
        model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, weight=weight))
        main, _, _ = step_losses(model, data_of(), objective, [*range(6)])
        alone = gradients(model, main)
        _, _, total = step_losses(model, data_of(), objective, [*range(6)])
        return alone, gradients(model, total)

    for one, other in zip(*found(0.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert not all(torch.allclose(one, other) for one, other in zip(*found(0.3), strict=True))  # the control


def test_a_run_with_an_ssl_weight_of_0_is_a_run_without_ssl() -> None:
    """Self-supervision draws from a stream of its own: order of the log and hidden ids stay those of the base."""
    base = replace(WITH_SSL, ssl=None)
    zero = replace(WITH_SSL, ssl=replace(SSL, weight=0.0))
    for found, expected in zip(weights_of(trained(zero, epochs=3)), weights_of(trained(base, epochs=3)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_steps_losses_are_the_two_and_their_sum() -> None:
    model = model_of()
    for step in epoch_of(model, steppers_of(model), data_of(), WITH_SSL, seed=0, epoch=0):
        assert step.ssl > 0
        assert step.total.item() == pytest.approx(step.main.item() + 0.3 * step.ssl.item(), rel=1e-6)
    for step in epoch_of(model, steppers_of(model), data_of(), PLAIN, seed=0, epoch=1):
        assert (step.ssl, step.total) == (0.0, step.main)


def test_mean_losses_worked_by_hand() -> None:
    worked = [StepLosses(*torch.tensor(numbers)) for numbers in ([1.0, 2.0, 1.5], [3.0, 5.0, 4.5])]
    assert training.mean_losses(worked) == {"main": 2.0, "ssl": 3.5, "total": 3.0}


def test_steps_without_self_supervision_are_left_out_of_its_mean() -> None:
    worked = [
        StepLosses(*torch.tensor(numbers)) for numbers in ([1.0, 2.0, 5.0], [3.0, math.nan, 3.0], [2.0, 0.0, 10.0])
    ]
    assert training.mean_losses(worked) == {"main": 2.0, "ssl": 1.0, "total": 6.0}
    assert math.isnan(training.mean_losses(worked[1:2])["ssl"])


def test_the_task_comes_every_so_many_steps_and_counts_as_often() -> None:
    model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, every=3))
    planner = steps.Planner(data_of(), objective, model, 0)
    for number in range(7):
        planned = planner.step(torch.tensor([0, 1]), number // 2, number % 2)  # 8 interactions are two steps of four
        main, ssl, total = training.step_losses(model, planned, objective)
        assert (ssl.item() > 0) == (number % 3 == 0) == (planned.same is not None)
        assert total.item() == pytest.approx(main.item() + 3 * 0.3 * ssl.nan_to_num().item(), rel=1e-6)
        assert len(planned.items.lengths) == 3 * (len(planned.times) + 12 * (number % 3 == 0))


def test_a_batch_larger_than_the_log_counts_its_turns_on_from_pass_to_pass() -> None:
    objective = replace(WITH_SSL, batch_size=100, ssl=replace(SSL, every=3))
    planner = steps.Planner(data_of(), objective, model_of(), 0)
    assert [next(planner.epoch(epoch)).same is not None for epoch in range(4)] == [True, False, False, True]


def test_pairs_of_neighbours_are_cut_to_their_grain_and_no_further() -> None:
    """Of 60 items drawn, some six are the one that has no neighbour."""
    objective = replace(BESIDE, ssl=replace(BESIDE.ssl, batch_size=60))
    planner, cut = steps.Planner(data_of(), objective, model_of(), 0), 0
    for number in range(8):
        ids, variant = batches.ssl_draw(N, 60, 3, (0, 0, number), shared_seed=False)
        paired = ids != N - 1
        alike = planner.step(torch.tensor([0, 1]), 0, number).alike
        assert alike is not None
        left = len(alike.bounds) - 1
        assert left == int(paired.sum()) // steps.grain(left) * steps.grain(left)
        rows, beside = steps.with_neighbour(planner.data.views, ids, variant)
        expected = [(n, neighbour_of(n, v)) for n, v in zip(ids.tolist(), variant.tolist(), strict=True) if n != N - 1]
        assert list(zip(rows.tolist(), beside.tolist(), strict=True)) == expected[:left]
        cut += int(paired.sum()) - left
    assert cut


def test_the_warm_up_has_the_task_in_every_step_at_its_full_weight() -> None:
    model, objective = model_of(), replace(BESIDE, ssl=replace(BESIDE.ssl, every=2))
    for planned in steps.Planner(data_of(), objective, model, 0).warm_up():
        _, ssl, total = training.step_losses(model, planned, objective)
        assert total.item() == ssl.item() > 0


# --- shapes ---


@given(st.integers(0, 100_000))
def test_a_grain_is_a_power_of_two_and_at_most_an_eighth_of_what_it_rounds(size: int) -> None:
    found = steps.grain(size)
    assert found.bit_count() == 1
    assert found == 1 or found <= size / 8
    assert found == 64 or found > size / 16 or size < 8


LARGE = 500  # interactions of 100 items by 50 queries


def large(further: int = 0) -> tuple[TrainingData, Objective]:
    """A step of enough items that their number is rounded: 100 with an id and some without."""
    source = torch.Generator().manual_seed(5)
    rows = 100
    bags = [bag for i in range(rows) for bag in ([i + 2], [i % 7 + 2, i % 5 + 2], [1 - i % 2])]
    table = table_of(KINDS, bags, torch.randn(rows, 2, generator=source))
    drawn = [(int(q), 0, int(i)) for q, i in zip(torch.arange(LARGE) % 8, torch.randperm(LARGE) % rows, strict=True)]
    queries, times, items = (torch.tensor([event[at] for event in drawn]) for at in range(3))
    log = batches.interactions(*(side[torch.argsort(queries, stable=True)] for side in (queries, items)), 8, times)
    counts = torch.bincount(items, minlength=rows)
    data = TrainingData(table, QUERIES, log, torch.full((rows,), -4.0), batches.negative_pool(counts, 1.0), None)
    return data, replace(PLAIN, batch_size=LARGE, id_dropout=0.1, further_negatives=further)


def test_candidates_are_filled_up_with_items_that_count_for_nothing() -> None:
    """The loss and every gradient are those of the candidates alone."""
    vocabularies = VOCABULARIES | {"item_id": 102}
    data, objective = large()
    model = training.two_tower(
        data.items, QUERIES, vocabularies, embedding_width=6, hidden=[12], width=8, history=False, seed=0
    )
    planned = steps.Planner(data, objective, model, 0).step(torch.arange(LARGE), 0, 0)
    real = int((planned.times > 0).sum())
    assert len(planned.times) % steps.grain(real) == 0
    assert 0 < len(planned.times) - real < steps.grain(real)
    assert int(planned.times.sum()) == LARGE
    added = planned.items.codes.split(planned.items.lengths.tolist())[3 * real :]
    assert all(codes.tolist() == [0] for codes in added)
    main, _, _ = training.step_losses(model, planned, objective)
    found = gradients(model, main)
    queries, candidates = model.query(planned.queries), model.item(planned.items)[:real]
    own, log_q, times = planned.own, planned.log_q[:real], planned.times[:real]
    alone = losses.in_batch_softmax(queries, candidates, own, log_q, times, planned.known, objective.temperature)
    assert main.item() == pytest.approx(alone.item(), rel=1e-6)
    for one, other in zip(found, gradients(model, alone), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_few_shapes_are_made_of_many_batches() -> None:
    data, objective = large(further=300)
    model = training.two_tower(
        data.items,
        QUERIES,
        VOCABULARIES | {"item_id": 102},
        embedding_width=6,
        hidden=[12],
        width=8,
        history=False,
        seed=0,
    )
    planner = steps.Planner(data, objective, model, 0)
    sizes = [int((step.times > 0).sum()) for step in (planner.step(torch.arange(200), 0, n) for n in range(12))]
    shapes = {len(planner.step(torch.arange(200), 0, n).times) for n in range(12)}
    assert len(set(sizes)) > len(shapes)


class NeverAsks(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a number, and shapes that depend on values."""

    WAITS = (
        "_local_scalar_dense",
        "nonzero",
        "unique",
        "masked_select",
        "_coalesce",
        "repeat_interleave",
        "is_nonzero",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        says = name == "_coalesced_"  # that it is coalesced, and does nothing
        assert says or not name.startswith(self.WAITS), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", [PLAIN, replace(WITH_SSL, history=2, further_negatives=5, bf16=True), BESIDE])
def test_a_step_asks_the_device_for_nothing(objective: Objective) -> None:
    model = model_of(history=objective.history > 0)
    steppers = steppers_of(model)
    step = steps.Planner(data_of(), objective, model, 0).step(torch.tensor([0, 3, 5, 6]), 0, 0)
    average = optimisers.RunningAverage(training.dense_weights(model), 0.9)
    with NeverAsks():
        for _ in range(2):
            training.take_step(model, steppers, step, objective, average)
    with pytest.raises(AssertionError, match="waits for the device"), NeverAsks():
        torch.ones(1).item()


def test_bf16_products_lose_the_last_digits_and_no_more() -> None:
    model, rows = model_of(), [*range(8)]
    plain, low = (step_losses(model, data_of(), replace(WITH_SSL, bf16=bf16), rows) for bf16 in (False, True))
    for exact, rounded in zip(plain, low, strict=True):
        assert rounded.dtype == torch.float32
        assert rounded.item() == pytest.approx(exact.item(), rel=0.05)
        assert rounded.item() != exact.item()
    exact, rounded = (torch.cat([g.flatten() for g in gradients(model, found[2])]) for found in (plain, low))
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.99


# --- sizes (F38) ---


@pytest.mark.parametrize("bf16", [True, False])
def test_the_losses_alone_are_rounded_and_only_where_told(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them in a step; before and after it everything is as it was, whatever goes wrong in it."""
    seen, plain, before = [], losses.softmax_loss, torch.get_float32_matmul_precision()

    def watched(*terms: Any) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return plain(*terms)

    monkeypatch.setattr(losses, "softmax_loss", watched)
    objective = replace(BESIDE, bf16=bf16)
    step_losses(model_of(), data_of(), objective, [*range(8)])
    assert seen == ["medium" if bf16 else before] * 3
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ZeroDivisionError), blockwise.rounded(bf16=bf16):
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("interactions", "batch", "steps"), [(7, 3, 2), (8, 4, 2), (2, 64, 1), (1, 4, 1)])
def test_an_epoch_has_whole_batches_and_at_least_one(interactions: int, batch: int, steps: int) -> None:
    model, data = model_of(), data_of([(q, 0, q) for q in range(interactions)])
    objective = replace(WITH_SSL, batch_size=batch)
    found = list(epoch_of(model, steppers_of(model), data, objective, seed=0, epoch=0))
    assert len(found) == steps
    assert all(math.isfinite(step.total) for step in found)


@pytest.mark.parametrize("size", [1, 2, 200])
def test_an_ssl_batch_may_be_smaller_or_larger_than_the_catalogue(size: int) -> None:
    model = model_of()
    objective = replace(WITH_SSL, ssl=replace(SSL, batch_size=size))
    for step in epoch_of(model, steppers_of(model), data_of(), objective, seed=0, epoch=0):
        assert math.isfinite(step.total)


def test_one_user_who_took_one_item_again_and_again_teaches_nothing() -> None:
    """F42: every row of the batch holds the same item; the loss is 0 and no weight moves, let alone to NaN."""
    data, model = data_of([(0, time, 3) for time in range(6)]), model_of()
    before = weights_of(model)
    found = list(epoch_of(model, steppers_of(model), data, PLAIN, seed=0, epoch=0))
    assert [step.main.item() for step in found] == [0.0]
    assert same(weights_of(model), before)


@given(st.integers(0, 9), st.integers(1, 4))
@few
def test_what_is_made_ahead_comes_in_order_and_no_more_than_so_many_ahead(many: int, depth: int) -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(many):
            made.append(number)
            yield number

    for taken, number in enumerate(training.ahead(numbers(), depth)):
        assert number == taken
        assert len(made) <= number + 1 + depth
    assert made == list(range(many))


def test_what_goes_wrong_ahead_is_raised_where_it_would_have_been() -> None:
    def two_and_a_fault() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("third")

    found = training.ahead(two_and_a_fault())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(found)


def test_steps_that_are_planned_ahead_are_the_same_steps() -> None:
    weights = []
    for plan_ahead in (False, True):
        model, data = model_of(), data_of([(q, time, q) for q in range(8) for time in range(5)])
        planner = steps.Planner(data, replace(WITH_SSL, batch_size=4), model, 3)
        losses_of = list(training.train_epoch(model, steppers_of(model), planner, 1, plan_ahead=plan_ahead))
        assert len(losses_of) == 10
        weights.append(weights_of(model))
    assert same(*weights)


# --- non-finite numbers (F43) ---


@pytest.mark.parametrize("planted", [float("nan"), float("-inf")])
@pytest.mark.parametrize("at", [0, 1, training.CHECK - 1, training.CHECK, training.CHECK + 1])
def test_a_number_planted_at_a_step_is_named_before_the_next_look_is_over(planted: float, at: int) -> None:
    model, data = model_of(), data_of([(q, time, q) for q in range(8) for time in range(training.CHECK + 4)])
    objective = replace(PLAIN, batch_size=8, ssl=SSL)
    found = epoch_of(model, steppers_of(model), data, objective, seed=0, epoch=7)
    for _ in range(at):
        next(found)
    data.log_q.fill_(planted)
    with pytest.raises(losses.NonFiniteError, match=rf"epoch 7, step {at}: loss \S+ \(main (nan|-?inf)"):
        list(islice(found, training.CHECK))


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL])
def test_a_weight_that_is_not_a_number_is_found_at_once(objective: Objective) -> None:
    model = model_of()
    with torch.no_grad():
        model.embeddings.weight[:] = float("nan")
    with pytest.raises(losses.NonFiniteError, match="step 0"):
        list(epoch_of(model, steppers_of(model), data_of(), objective, seed=0, epoch=0))


def test_a_number_that_only_the_ssl_loss_meets_is_found_too() -> None:
    """NaN in the word of item 9, which nobody took: the main loss is finite."""
    model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, batch_size=200))
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["words"] + 9 + 2] = float("nan")
    list(epoch_of(copy.deepcopy(model), steppers_of(model), data_of(), PLAIN, seed=0, epoch=0))
    with pytest.raises(losses.NonFiniteError, match="step 0"):
        list(epoch_of(model, steppers_of(model), data_of(), objective, seed=0, epoch=0))


# --- building and exporting ---


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = weights_of(model_of(3))
    state = torch.manual_seed(2).get_state()
    assert same(weights_of(model_of(3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(weights_of(model_of(4)), first)


def test_the_optimisers_share_all_weights_between_them_once() -> None:
    model = model_of(history=True)
    groups = [weight for stepper in steppers_of(model) for group in stepper.param_groups for weight in group["params"]]
    assert len(groups) == len({id(weight) for weight in groups})
    assert {id(weight) for weight in groups} == {id(weight) for weight in model.parameters()}


@pytest.mark.parametrize("block", [1, 3, 10, 8192])
def test_the_catalogue_is_embedded_row_by_row_whatever_the_block(block: int) -> None:
    model = model_of()
    found = training.embed_items(model, ITEMS, block)
    assert (found.shape, found.dtype, found.requires_grad) == ((N, 8), torch.float32, False)
    one_by_one = torch.cat([model.item(bags_of(ITEMS, torch.tensor([row]))) for row in range(N)])
    torch.testing.assert_close(found, one_by_one.detach())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(N))


@pytest.mark.parametrize("block", [1, 8192])
def test_queries_are_embedded_as_they_stand_at_the_end_of_the_log(block: int) -> None:
    """Query 0 took 4, 2, 7: its last two, newest first, are 7 and 2. Query 1 took 3. The others took nothing."""
    data, model = data_of([(0, 1, 4), (0, 2, 2), (0, 3, 7), (1, 0, 3)]), model_of(history=True)
    past = [[7 + 2, 2 + 2], [3 + 2], *[[0]] * 6]
    codes = torch.tensor([code for bag in past for code in bag])
    bags = Bags(codes, torch.tensor([len(bag) for bag in past]), {})
    expected = model.query(bags_of(QUERIES, torch.arange(8)), bags).detach()
    found = training.embed_queries(model, QUERIES, data.log, ITEMS, 2, block=block)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(found, expected)
    some = training.embed_queries(model, QUERIES, data.log, ITEMS, 2, rows=torch.tensor([5, 0, 0]), block=block)
    torch.testing.assert_close(some, expected[[5, 0, 0]])


@pytest.mark.parametrize("objective", [PLAIN, replace(WITH_SSL, history=2), BESIDE])
def test_moving_a_step_keeps_what_it_holds(objective: Objective) -> None:
    model = model_of(history=objective.history > 0)
    step = steps.Planner(data_of(), objective, model, 0).step(torch.tensor([0, 3]), 0, 0)
    moved = step.to(torch.device("cpu"))
    assert training.step_losses(model, moved, objective) == training.step_losses(model, step, objective)
    assert {part.device.type for part in tensors_of(step.to(torch.device("meta")))} == {"meta"}


def tensors_of(part: object) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    inner = part.values() if isinstance(part, dict) else vars(part).values() if hasattr(part, "__dict__") else []
    return [tensor for one in inner for tensor in tensors_of(one)]


def test_self_supervision_without_views_is_refused() -> None:
    model = model_of()
    with pytest.raises(AssertionError, match="views"):
        next(epoch_of(model, steppers_of(model), replace(data_of(), views=None), WITH_SSL, seed=0, epoch=0))
