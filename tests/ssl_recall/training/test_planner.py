from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_recall import losses, towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import bags_of, drop_features, hide_ids
from ssl_recall.data.interactions import index_interactions
from ssl_recall.kernels import optimisers
from ssl_recall.training import loop, sampling
from ssl_recall.training.objective import Objective
from ssl_recall.training.planner import Planner, TrainingData, grain

from ..small_world import (
    BESIDE,
    ITEMS,
    KINDS,
    PLAIN,
    QUERIES,
    VOCABULARIES,
    WITH_SSL,
    N,
    data_of,
    gradients,
    model_of,
    step_losses,
    steppers_of,
    table_of,
)

# --- hiding ids ---


def test_about_the_rate_of_ids_is_hidden_and_nothing_else() -> None:
    """4,000 rows at 0.3: 1,200 expected, standard deviation 29; for queries and for items, popular or not."""
    log = [(q, time, item) for q in range(8) for time, item in enumerate([*range(5)] * 100)]
    objective = replace(PLAIN, id_dropout=0.3, batch_size=4000)
    model = model_of()
    step = Planner(data_of(log), objective, model, 0).step(torch.arange(4000), 0, 0)
    plain = Planner(data_of(log), PLAIN, model, 0).step(torch.arange(4000), 0, 0)
    assert abs((step.queries.codes == 0).sum().item() - 1200) < 4 * 29
    assert torch.equal(step.queries.codes[step.queries.codes > 0], plain.queries.codes[step.queries.codes > 0])
    ids = step.items.codes[step.items.starts.view(-1, 3)[:, 0]]
    assert sorted(ids.tolist()) == [0] * 5 + [2, 3, 4, 5, 6]  # each item with its id, and with its id hidden
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
    step = Planner(data_of(), objective, model_of(), 0).step(torch.arange(8), 0, 0)
    assert (step.queries.codes == 0).sum() == hidden
    assert (step.items.codes[step.items.starts.view(-1, 3)[:, 0]] == 0).sum() == hidden


def test_the_id_is_hidden_wherever_it_stands_and_a_table_without_ids_loses_nothing() -> None:
    last = table_of({"words": Kind.MULTI_VALUED, "item_id": Kind.ID}, [[2, 3], [4], [5, 6, 7], [8]])
    bags = bags_of(last, torch.arange(2))
    found = hide_ids(bags, last, torch.tensor([True, True]))
    assert found.codes.tolist() == [2, 3, 0, 5, 6, 7, 0]
    assert bags.codes.tolist() == [2, 3, 4, 5, 6, 7, 8]  # the input does not change
    assert hide_ids(bags, last, torch.tensor([False, True])).codes.tolist() == [2, 3, 4, 5, 6, 7, 0]
    no_ids = table_of({"words": Kind.MULTI_VALUED}, [[2, 3], [4]])
    found = hide_ids(bags_of(no_ids, torch.arange(2)), no_ids, torch.tensor([True, True]))
    assert found.codes.tolist() == [2, 3, 4]


# --- feature dropout ---


def test_feature_dropout_hides_about_its_share_of_the_candidates_features_and_no_id() -> None:
    """Words and images of the items of 4,000 interactions; the self-supervised bags do not change."""
    log = [(row // 500, 0, row % N) for row in range(4000)]
    model, data = model_of(), data_of(log)
    dropped = replace(WITH_SSL, id_dropout=0.5, further_negatives=4000, feature_dropout=0.3)
    plain, hidden = (
        Planner(data, objective, model, 0).step(torch.arange(4000), 0, 0)
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
    source = sampling.torch_generator(1)
    found = drop_features(bags, ITEMS, 0.3, source)
    firsts = found.codes[found.starts].view(-1, 3)
    assert (firsts[:, 0] == bags.codes[bags.starts].view(-1, 3)[:, 0]).all()
    hidden = firsts[:, 1] == 0
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)
    pictured = bags.codes[bags.starts].view(-1, 3)[:, 2] == 1
    both = (hidden & (firsts[:, 2] == 0))[pictured].double().mean().item()
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 2000) ** 0.5)


# --- shapes ---


@given(st.integers(0, 100_000))
def test_a_grain_is_a_power_of_two_and_at_most_an_eighth_of_what_it_rounds(size: int) -> None:
    found = grain(size)
    assert found.bit_count() == 1
    assert found == 1 or found <= size / 8
    assert found == 64 or found > size / 16 or size < 8


LARGE = 500  # interactions of 100 items by 50 queries


def large(further: int = 0) -> tuple[TrainingData, Objective]:
    """Return a step with enough items for padding: 100 with an id, and some with the id hidden."""
    source = torch.Generator().manual_seed(5)
    rows = 100
    bags = [bag for i in range(rows) for bag in ([i + 2], [i % 7 + 2, i % 5 + 2], [1 - i % 2])]
    table = table_of(KINDS, bags, torch.randn(rows, 2, generator=source))
    shuffled = torch.randperm(LARGE, generator=torch.Generator().manual_seed(1))
    drawn = [
        (int(q), 0, int(i))
        for q, i in zip(
            torch.arange(LARGE) % 8,
            shuffled % rows,
            strict=True,
        )
    ]
    queries, times, items = (torch.tensor([event[at] for event in drawn]) for at in range(3))
    log = index_interactions(*(side[torch.argsort(queries, stable=True)] for side in (queries, items)), 8, times)
    counts = torch.bincount(items, minlength=rows)
    data = TrainingData(table, QUERIES, log, torch.full((rows,), -4.0), sampling.negative_pool(counts, 1.0), None)
    return data, replace(PLAIN, batch_size=LARGE, id_dropout=0.1, further_negatives=further)


def test_candidates_are_filled_up_with_items_that_count_for_nothing() -> None:
    """The loss and every gradient equal those without padding."""
    vocabularies = VOCABULARIES | {"item_id": 102}
    data, objective = large()
    model = towers.two_tower(
        data.items, QUERIES, vocabularies, embedding_width=6, hidden=[12], width=8, history=False, seed=0
    )
    planned = Planner(data, objective, model, 0).step(torch.arange(LARGE), 0, 0)
    real = int((planned.times > 0).sum())
    assert len(planned.times) % grain(real) == 0
    assert 0 < len(planned.times) - real < grain(real)
    assert int(planned.times.sum()) == LARGE
    added = planned.items.codes.split(planned.items.lengths.tolist())[3 * real :]
    assert all(codes.tolist() == [0] for codes in added)
    main, _, _ = loop.step_losses(model, planned, objective)
    found = gradients(model, main)
    queries, candidates = model.query(planned.queries), model.item(planned.items)[:real]
    own, log_q, times = planned.own, planned.log_q[:real], planned.times[:real]
    alone = losses.in_batch_softmax(queries, candidates, own, log_q, times, planned.known, objective.temperature)
    assert main.item() == pytest.approx(alone.item(), rel=1e-6)
    for one, other in zip(found, gradients(model, alone), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_few_shapes_are_made_of_many_batches() -> None:
    data, objective = large(further=300)
    model = towers.two_tower(
        data.items,
        QUERIES,
        VOCABULARIES | {"item_id": 102},
        embedding_width=6,
        hidden=[12],
        width=8,
        history=False,
        seed=0,
    )
    planner = Planner(data, objective, model, 0)
    sizes = [int((step.times > 0).sum()) for step in (planner.step(torch.arange(200), 0, n) for n in range(12))]
    shapes = {len(planner.step(torch.arange(200), 0, n).times) for n in range(12)}
    assert len(set(sizes)) > len(shapes)


class NeverAsks(TorchDispatchMode):
    """Refuses operations that make the host wait for a device: reading a number, shapes that depend on values."""

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
        says = name == "_coalesced_"  # only sets a flag
        assert says or not name.startswith(self.WAITS), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", [PLAIN, replace(WITH_SSL, history=2, further_negatives=5, bf16=True), BESIDE])
def test_a_step_asks_the_device_for_nothing(objective: Objective) -> None:
    model = model_of(history=objective.history > 0)
    steppers = steppers_of(model)
    step = Planner(data_of(), objective, model, 0).step(torch.tensor([0, 3, 5, 6]), 0, 0)
    average = optimisers.RunningAverage(loop.dense_weights(model), 0.9)
    with NeverAsks():
        for _ in range(2):
            loop.take_step(model, steppers, step, objective, average)
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
