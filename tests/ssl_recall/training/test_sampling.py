import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.data.interactions import Interactions, index_interactions
from ssl_recall.training import sampling

few = settings(max_examples=40, deadline=None)
Event = tuple[int, int, int]  # query, time, item


def log_of(events: list[Event], query_count: int) -> Interactions:
    queries, times, items = (torch.tensor([e[i] for e in events], dtype=torch.int64) for i in range(3))
    return index_interactions(queries, items, query_count, times)


def stream(*key: int) -> tuple[int, ...]:
    """Return the first draws of a generator of this key."""
    return tuple(torch.randint(0, 2**31, (4,), generator=sampling.torch_generator(*key)).tolist())


logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)), max_size=14).map(sorted)


# --- draws ---


def test_the_order_of_an_epoch_is_a_permutation() -> None:
    for rows in (0, 1, 2, 17, 1000):
        assert sorted(sampling.epoch_order(rows, 3, 0).tolist()) == list(range(rows))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = sampling.epoch_order(200, 1, 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(sampling.epoch_order(200, 1, 4), first)
    others = [sampling.epoch_order(200, seed, epoch) for seed, epoch in ((1, 5), (2, 4), (4, 1), (1, 0))]
    assert not any(torch.equal(first, other) for other in others)


def test_an_epochs_order_is_uniform_over_the_places() -> None:
    """The place of row 0 in 2,000 epochs: chi-square on 9 degrees of freedom, 99.99 % below 33.7."""
    places = Counter(sampling.epoch_order(10, 7, epoch).tolist().index(0) for epoch in range(2000))
    assert sum((places[place] - 200) ** 2 / 200 for place in range(10)) < 33.7


@given(st.lists(st.integers(0, 5), min_size=2, max_size=4))
@few
def test_generators_of_a_key_in_another_order_differ(key: list[int]) -> None:
    orders = set(itertools.permutations(key))
    assert len({stream(*order) for order in orders}) == len(orders)
    assert stream(*key) == stream(*key)


@pytest.mark.parametrize(("one", "other"), [((1, 2), (1, 2, 0)), ((1, 2), (1, 2, 0, 0)), ((2**32, 5), (0, 1, 5))])
def test_keys_of_different_length_never_meet(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Epoch 2 draws its order by key (seed, 2); its step 0, which hides ids, must use another stream."""
    assert stream(*one) != stream(*other)


def test_the_self_supervised_draw_is_uniform_over_the_whole_catalogue() -> None:
    """80,000 draws from 50 items: chi-square on 49 degrees of freedom, 99.99 % below 95.9. The log has no influence."""
    drawn = torch.cat([sampling.ssl_draw(50, 400, 8, (1, 2, step), shared_seed=False)[0] for step in range(200)])
    counts = torch.bincount(drawn, minlength=50).double()
    assert len(counts) == 50
    assert ((counts - 1600) ** 2 / 1600).sum() < 95.9
    by_popularity = torch.arange(1, 51).double() / (51 * 25) * 80_000  # control: draws by popularity are not uniform
    assert ((by_popularity - 1600) ** 2 / 1600).sum() > 95.9


def test_items_and_variants_are_drawn_apart() -> None:
    """All 4 x 5 cells of (item, variant): 40,000 draws, chi-square on 19 degrees of freedom, 99.99 % below 51."""
    drawn = [sampling.ssl_draw(4, 400, 5, (9, 0, step), shared_seed=False) for step in range(100)]
    cells = torch.bincount(torch.cat([items * 5 + variants for items, variants in drawn]), minlength=20).double()
    assert ((cells - 2000) ** 2 / 2000).sum() < 51


def test_a_shared_seed_is_one_variant_a_batch_and_all_variants_over_time() -> None:
    shared = [sampling.ssl_draw(30, 16, 4, (1, 0, step), shared_seed=True)[1] for step in range(60)]
    assert all((variants == variants[0]).all() and len(variants) == 16 for variants in shared)
    assert {variants[0].item() for variants in shared} == {0, 1, 2, 3}
    apart = sampling.ssl_draw(30, 64, 4, (1, 0, 0), shared_seed=False)[1]
    assert set(apart.tolist()) == {0, 1, 2, 3}  # control: without a shared seed


@pytest.mark.parametrize("shared", [True, False])
def test_a_draw_depends_on_its_key_and_on_nothing_else(shared: bool) -> None:
    def draw(*key: int) -> tuple[list[int], list[int]]:
        items, variants = sampling.ssl_draw(1000, 32, 6, key, shared_seed=shared)
        return items.tolist(), variants.tolist()

    torch.manual_seed(0)
    first = draw(1, 2, 3)
    state = torch.manual_seed(5).get_state()
    assert draw(1, 2, 3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(draw(*key)[0] != first[0] for key in ((1, 3, 2), (2, 1, 3), (1, 2, 4), (0, 2, 3)))


def test_a_batch_larger_than_the_catalogue_is_drawn_with_repeats() -> None:
    items, variants = sampling.ssl_draw(3, 40, 1, (1, 1, 1), shared_seed=False)
    assert set(items.tolist()) == {0, 1, 2}
    assert variants.tolist() == [0] * 40
    assert (items.dtype, variants.dtype) == (torch.int64, torch.int64)


@given(st.lists(st.integers(0, 5), max_size=40).map(sorted), st.integers(1, 4), st.integers(0, 9))
@few
def test_the_order_by_chunks_is_a_permutation_that_keeps_neighbouring_rows_of_a_query_together(
    queries: list[int], size: int, epoch: int
) -> None:
    rows = torch.tensor(queries, dtype=torch.int64)
    order = sampling.order_by_chunks(rows, size, 3, epoch, in_order=True).tolist()
    assert sorted(order) == list(range(len(queries)))
    runs = 1 + sum(
        row != previous + 1 or queries[row] != queries[previous] for previous, row in itertools.pairwise(order)
    )
    assert runs <= 2 * len(set(queries)) + len(queries) // size + 1
    mixed = sampling.order_by_chunks(rows, size, 3, epoch, in_order=False).tolist()
    assert sorted(mixed) == sorted(order)
    changes = sum(queries[row] != queries[previous] for previous, row in itertools.pairwise(mixed))
    assert changes <= 2 * len(set(queries)) + len(queries) // size


def test_the_order_by_chunks_depends_on_seed_and_epoch() -> None:
    queries = torch.arange(40) // 10
    for in_order in (True, False):
        keys = ((1, 0), (1, 1), (2, 0), (1, 0))
        orders = {tuple(sampling.order_by_chunks(queries, 4, *key, in_order=in_order).tolist()) for key in keys}
        assert len(orders) == 3


# --- rows by weight ---

heavy = st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.5, 0.9, 1.0]), max_size=40)


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rows_of_two_weights_worked_by_hand() -> None:
    """The weights sum to 3.5: an epoch draws 3 rows, never the last one; each of the others with 6/7 of its weight."""
    weights = doubles([1, 1, 0.5, 0.5, 0.5, 0])
    assert sampling.rows_per_epoch(weights) == 3
    drawn = torch.stack([row_counts(weights, 1, epoch) for epoch in range(20_000)]).double().mean(0)
    expected = weights * 3 / 3.5
    assert drawn[5] == 0
    # 4.5 standard deviations of a mean of 20,000, and what Pareto sampling is off with three rows
    assert (drawn - expected).abs().max() < 4.5 * 0.5 / 20_000**0.5 + 0.01


def row_counts(weights: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    return torch.bincount(sampling.weighted_rows(weights, seed, epoch).long(), minlength=len(weights))


def test_rows_are_drawn_as_often_as_they_weigh_and_not_by_other_keys() -> None:
    """400 rows of half-life 100 rows: chi-square of 2,000 epochs, 399 degrees of freedom, 99.99 % below 512.

    The draws of an epoch depend on each other, which makes the statistic smaller than chi-square. Keys u ^ (1 / w)
    (Efraimidis and Spirakis) are the control: they draw the newest rows too rarely.
    """
    weights = 0.5 ** (torch.arange(400, dtype=torch.float64) / 100)
    size, epochs = sampling.rows_per_epoch(weights), 2000
    expected = weights * size / weights.sum() * epochs

    def statistic(counts: torch.Tensor) -> float:
        chance = expected / epochs
        return float(((counts - expected) ** 2 / (expected * (1 - chance))).sum())

    drawn = sum(row_counts(weights, 3, epoch) for epoch in range(epochs))
    assert statistic(drawn) < 512
    source, other = torch.Generator().manual_seed(1), torch.zeros(400)
    for _ in range(epochs):
        keys = torch.rand(400, generator=source, dtype=torch.float64) ** (1 / weights)
        other[keys.topk(size).indices] += 1
    assert statistic(other) > 512


@given(heavy, st.integers(0, 5))
@few
def test_an_epoch_draws_distinct_rows_of_some_weight_always_as_many(weights: list[float], epoch: int) -> None:
    rows = sampling.weighted_rows(doubles(weights), 3, epoch)
    assert rows.dtype == torch.int32
    assert len(rows) == sampling.rows_per_epoch(doubles(weights)) == int(sum(weights) + 1e-12)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert all(weights[row] > 0 for row in rows.tolist())


def test_weights_of_one_draw_every_row() -> None:
    for rows in (0, 1, 7, 49, 1000):
        assert sampling.weighted_rows(torch.ones(rows, dtype=torch.float64), 2, 1).tolist() == list(range(rows))


def test_the_rows_of_an_epoch_depend_on_seed_and_epoch_and_on_nothing_else() -> None:
    weights = torch.full((200,), 0.5, dtype=torch.float64)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = sampling.weighted_rows(weights, 1, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sampling.weighted_rows(weights, 1, 4), first)
    others = [sampling.weighted_rows(weights, seed, epoch) for seed, epoch in ((1, 5), (2, 4), (4, 1), (1, 0))]
    assert not any(torch.equal(first, other) for other in others)


# --- the log ---


def test_a_log_worked_by_hand() -> None:
    """Query 0 took items 4, 2 at time 1 and 3 at time 5; query 1 nothing; query 2 took 1."""
    log = log_of([(0, 1, 4), (0, 1, 2), (0, 5, 3), (2, 9, 1)], 3)
    assert log.offsets.tolist() == [0, 3, 3, 4]
    assert log.until.tolist() == [0, 0, 2, 3]
    assert log.queries.tolist() == [0, 0, 0, 2]
    assert log.items.tolist() == [4, 2, 3, 1]


def test_an_empty_log_has_queries_that_took_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    for times in (None, empty):
        log = index_interactions(empty, empty, 3, times)
        assert log.offsets.tolist() == [0, 0, 0, 0]


@given(logs)
@few
def test_until_counts_what_the_query_took_strictly_before(events: list[Event]) -> None:
    log = log_of(events, 4)
    for row, (query, time, _) in enumerate(events):
        start = sum(other < query for other, _, _ in events)
        assert log.offsets[query] == start
        assert log.until[row] == start + sum(q == query and t < time for q, t, _ in events)


def test_moving_a_log_keeps_what_it_holds() -> None:
    log = log_of([(0, 1, 4), (0, 2, 2)], 1)
    moved = log.to(torch.device("cpu"))
    assert all(torch.equal(getattr(moved, name), getattr(log, name)) for name in vars(log))


def test_a_log_that_is_not_sorted_is_refused() -> None:
    items = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="sorted by query"):
        index_interactions(torch.tensor([0, 1, 0]), items, 2)
    with pytest.raises(ValueError, match="sorted by time"):
        index_interactions(torch.tensor([0, 0, 1]), items, 2, torch.tensor([5, 4, 9]))
    index_interactions(torch.tensor([0, 0, 1]), items, 2, torch.tensor([5, 5, 1]))  # a new query may start earlier


# --- negatives ---


def test_the_pool_of_negatives_draws_cold_items_at_their_rate() -> None:
    """Six warm and four cold items, cold ones at a quarter of the rate: 1 of 7 parts is cold."""
    pool = sampling.negative_pool(torch.tensor([3, 0, 1, 0, 9, 1, 0, 2, 5, 0]), 0.25)
    chances = pool.probabilities(10)
    assert chances.sum().item() == pytest.approx(1)
    torch.testing.assert_close(chances[1] / chances[0], torch.tensor(0.25, dtype=torch.float64))
    drawn = torch.cat([pool.draw(500, (1, 0, step)) for step in range(80)])
    counts = torch.bincount(drawn, minlength=10).double()
    assert (
        (counts - 40_000 * chances) ** 2 / (40_000 * chances)
    ).sum() < 33.7  # chi-square, 9 degrees of freedom, 99.99 %


def test_a_pool_without_cold_items_or_with_none_wanted_draws_warm_ones() -> None:
    for counts, rate in (([1, 2, 3], 1.0), ([1, 0, 3], 0.0)):
        pool = sampling.negative_pool(torch.tensor(counts), rate)
        assert set(pool.draw(64, (1, 2, 3)).tolist()) <= {i for i, count in enumerate(counts) if count}
    assert pool.draw(64, (1, 2, 3)).tolist() == pool.draw(64, (1, 2, 3)).tolist()
    assert pool.draw(64, (1, 2, 3)).tolist() != pool.draw(64, (1, 2, 4)).tolist()
