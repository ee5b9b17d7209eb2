import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import Barrier, Event
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall import losses, towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import bags_of, nothing_known
from ssl_recall.data.histories import Histories, so_far
from ssl_recall.embedding import embed_items, embed_queries
from ssl_recall.kernels import optimisers, prefetch, softmax
from ssl_recall.training import loop, sampling
from ssl_recall.training import planner as steps
from ssl_recall.training.batch import Batch
from ssl_recall.training.loop import StepLosses
from ssl_recall.training.objective import Objective
from ssl_recall.training.planner import PlannedBatch, Planner, grain, with_neighbour

from ..small_world import (
    BESIDE,
    ITEMS,
    PLAIN,
    QUERIES,
    SSL,
    VOCABULARIES,
    WITH_SSL,
    N,
    data_of,
    epoch_of,
    few,
    gradients,
    model_of,
    neighbour_of,
    same,
    step_losses,
    steppers_of,
    table_of,
    trained,
    weights_of,
)

# --- learning ---


@pytest.mark.parametrize("objective", [PLAIN, replace(PLAIN, ssl=SSL)], ids=["without SSL", "with SSL"])
def test_a_tiny_log_is_learned_by_heart(objective: Objective) -> None:
    model, data = model_of(), data_of()
    steppers = steppers_of(model)
    curve = [
        loop.mean_losses(list(epoch_of(model, steppers, data, objective, seed=0, epoch=epoch)))["main"]
        for epoch in range(40)
    ]
    assert sum(curve[-5:]) < 0.3 * sum(curve[:5])
    items = embed_items(model, ITEMS)
    queries = embed_queries(model, QUERIES)
    assert (queries @ items.T).argmax(1).tolist() == list(range(8))


def test_self_supervision_reaches_items_that_nobody_took_and_the_main_task_does_not() -> None:
    """Item 9 has a word that is in no interaction."""
    own_word = model_of().embeddings.starts["words"] + 9 + 2
    first = model_of().embeddings.weight[own_word]
    assert torch.equal(trained(PLAIN, epochs=3).embeddings.weight[own_word], first)
    assert not torch.equal(trained(WITH_SSL, epochs=3).embeddings.weight[own_word], first)


def test_a_history_alone_can_tell_queries_apart() -> None:
    """Users without id vectors: only the history predicts the next item."""
    events = [event for q in range(4) for event in ((q, 0, q), (q, 1, q + 4))]
    data = data_of(events)
    unknown = table_of({"user": Kind.ID}, [[0]] * 8)
    data = replace(data, queries=unknown)
    model = towers.two_tower(
        ITEMS, unknown, VOCABULARIES, embedding_width=6, hidden=[12], width=8, history=True, seed=0
    )
    steppers = steppers_of(model)
    objective = replace(PLAIN, history=2, batch_size=8)
    for epoch in range(80):
        list(epoch_of(model, steppers, data, objective, seed=0, epoch=epoch))
    first = Histories(data.log.items[data.log.offsets[:4]].long(), torch.ones(4, dtype=torch.int64))
    scores = embed_queries(model, unknown, torch.arange(4), first, ITEMS) @ embed_items(model, ITEMS)[4:8].T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


# --- determinism ---


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL, replace(WITH_SSL, history=2)])
def test_one_seed_gives_one_model_bit_for_bit(objective: Objective) -> None:
    torch.manual_seed(1)
    first = weights_of(trained(objective, seed=5, epochs=2))
    torch.manual_seed(2)  # the global generator must have no influence
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


# --- the warm-up ---


def test_the_warm_up_is_the_self_supervised_task_alone_at_its_full_weight() -> None:
    model, data = model_of(), data_of()
    planned = [plan() for plan in Planner(data, BESIDE, model, 0).warm_up()]
    assert len(planned) == 3
    for number, step in enumerate(planned):
        main, ssl, total = loop.step_losses(model, step, BESIDE)
        assert main.item() == 0
        assert total.item() == ssl.item() > 0
        of_a_step = step_losses(model, data, BESIDE, [0, 1], (0, sampling.WARM_UP, number))[1]
        assert ssl.item() == pytest.approx(of_a_step.item(), rel=1e-5)


def test_the_warm_up_moves_what_the_views_touch_and_leaves_the_users_alone() -> None:
    model, data = model_of(), data_of()
    before = [weight.clone() for weight in weights_of(model)]
    planner = Planner(data, BESIDE, model, 0)
    taken = list(loop.warm_up(model, steppers_of(model), planner))
    assert len(taken) == 3
    start, end = model.embeddings.starts["user"], model.embeddings.starts["user"] + VOCABULARIES["user"]
    now = model.embeddings.weight
    assert torch.equal(now[start:end], before[0][start:end])
    assert not torch.equal(now[:start], before[0][:start])


def test_the_running_average_takes_the_warm_up_in() -> None:
    model = model_of()
    average = optimisers.RunningAverage(loop.dense_weights(model), 0.0)
    list(loop.warm_up(model, steppers_of(model), Planner(data_of(), BESIDE, model, 0), average))
    assert all(torch.allclose(*pair) for pair in zip(average.average, average.weights, strict=True))


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL])
def test_without_self_supervision_or_steps_there_is_no_warm_up(objective: Objective) -> None:
    model = model_of()
    assert not list(loop.warm_up(model, steppers_of(model), Planner(data_of(), objective, model, 0)))


def test_a_number_that_the_warm_up_meets_is_named() -> None:
    model = model_of()
    with torch.no_grad():
        model.item.layers[0].weight.fill_(math.nan)
    with pytest.raises(losses.NonFiniteLossError, match="warm-up, step 0: loss nan"):
        list(loop.warm_up(model, steppers_of(model), Planner(data_of(), BESIDE, model, 0)))


# --- the sum of the two ---


def test_with_an_ssl_weight_of_0_the_gradients_are_those_of_the_main_loss() -> None:
    def found(weight: float) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of the main loss and of the joint loss."""
        model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, weight=weight))
        main, _, _ = step_losses(model, data_of(), objective, [*range(6)])
        alone = gradients(model, main)
        _, _, total = step_losses(model, data_of(), objective, [*range(6)])
        return alone, gradients(model, total)

    for one, other in zip(*found(0.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert not all(torch.allclose(one, other) for one, other in zip(*found(0.3), strict=True))  # control


def test_a_run_with_an_ssl_weight_of_0_is_a_run_without_ssl() -> None:
    """Self-supervision has a separate random stream: the order of the log and the hidden ids do not change."""
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
    assert loop.mean_losses(worked) == {"main": 2.0, "ssl": 3.5, "total": 3.0}


def test_steps_without_self_supervision_are_left_out_of_its_mean() -> None:
    worked = [
        StepLosses(*torch.tensor(numbers)) for numbers in ([1.0, 2.0, 5.0], [3.0, math.nan, 3.0], [2.0, 0.0, 10.0])
    ]
    assert loop.mean_losses(worked) == {"main": 2.0, "ssl": 1.0, "total": 6.0}
    assert math.isnan(loop.mean_losses(worked[1:2])["ssl"])


def test_the_task_comes_every_so_many_steps_and_counts_as_often() -> None:
    model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, every=3))
    planner = Planner(data_of(), objective, model, 0)
    for number in range(7):
        planned = planner.step(torch.tensor([0, 1]), number // 2, number % 2)  # 8 interactions make two steps of four
        main, ssl, total = loop.step_losses(model, planned, objective)
        assert (ssl.item() > 0) == (number % 3 == 0) == (planned.same is not None)
        assert total.item() == pytest.approx(main.item() + 3 * 0.3 * ssl.nan_to_num().item(), rel=1e-6)
        assert len(planned.items.lengths) == 3 * (len(planned.times) + 12 * (number % 3 == 0))


def test_a_batch_larger_than_the_log_counts_its_turns_on_from_pass_to_pass() -> None:
    objective = replace(WITH_SSL, batch_size=100, ssl=replace(SSL, every=3))
    planner = Planner(data_of(), objective, model_of(), 0)
    assert [next(planner.epoch(epoch))().same is not None for epoch in range(4)] == [True, False, False, True]


def test_pairs_of_neighbours_are_cut_to_their_grain_and_no_further() -> None:
    """Of 60 items drawn, about six are the item without a neighbour."""
    objective = replace(BESIDE, ssl=replace(BESIDE.ssl, batch_size=60))
    planner, cut = Planner(data_of(), objective, model_of(), 0), 0
    for number in range(8):
        ids, variant = sampling.ssl_draw(N, 60, 3, (0, 0, number), shared_seed=False)
        paired = ids != N - 1
        alike = planner.step(torch.tensor([0, 1]), 0, number).alike
        assert alike is not None
        left = len(alike.bounds) - 1
        assert left == int(paired.sum()) // grain(left) * grain(left)
        rows, beside = with_neighbour(planner.data.views, ids, variant)
        expected = [(n, neighbour_of(n, v)) for n, v in zip(ids.tolist(), variant.tolist(), strict=True) if n != N - 1]
        assert list(zip(rows.tolist(), beside.tolist(), strict=True)) == expected[:left]
        cut += int(paired.sum()) - left
    assert cut


def test_the_warm_up_has_the_task_in_every_step_at_its_full_weight() -> None:
    model, objective = model_of(), replace(BESIDE, ssl=replace(BESIDE.ssl, every=2))
    for plan in Planner(data_of(), objective, model, 0).warm_up():
        planned = plan()
        _, ssl, total = loop.step_losses(model, planned, objective)
        assert total.item() == ssl.item() > 0


# --- sizes (F38) ---


@pytest.mark.parametrize("bf16", [True, False])
def test_the_losses_alone_are_rounded_and_only_where_told(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step has three losses. The precision is restored after the step, also after an error in it."""
    seen, plain, before = [], losses.softmax_loss, torch.get_float32_matmul_precision()

    def watched(*terms: Any) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return plain(*terms)

    monkeypatch.setattr(losses, "softmax_loss", watched)
    objective = replace(BESIDE, bf16=bf16)
    step_losses(model_of(), data_of(), objective, [*range(8)])
    assert seen == ["medium" if bf16 else before] * 3
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ZeroDivisionError), softmax.rounded(bf16=bf16):
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
    """F42: every row of the batch has the same item; the loss is 0 and no weight moves, let alone to NaN."""
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

    for taken, number in enumerate(prefetch.prefetch(numbers(), depth)):
        assert number == taken
        assert len(made) <= number + 1 + depth
    assert made == list(range(many))


def test_what_goes_wrong_ahead_is_raised_where_it_would_have_been() -> None:
    def two_and_a_fault() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("third")

    found = prefetch.prefetch(two_and_a_fault())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(found)


@given(st.integers(0, 9), st.integers(1, 3), st.integers(1, 3))
@few
def test_what_several_threads_call_ahead_comes_in_order_whichever_is_done_first(
    many: int, threads: int, depth: int
) -> None:
    asked: list[int] = []

    def call(number: int) -> int:
        time.sleep(0.003 * ((many - number) % 2))  # every second call takes longer
        return number

    def calls() -> Iterator[Callable[[], int]]:
        for number in range(many):
            asked.append(number)
            yield partial(call, number)

    for taken, number in enumerate(prefetch.prefetch_calls(calls(), threads, depth)):
        assert number == taken
        assert len(asked) == min(many, number + 1 + threads * depth)
    assert asked == list(range(many))


def test_calls_ahead_are_made_at_the_same_time() -> None:
    meeting = Barrier(3, timeout=20)
    found = prefetch.prefetch_calls(iter([meeting.wait] * 3), 3)
    assert sorted(found) == [0, 1, 2]


def test_calls_that_nobody_waits_for_any_more_are_not_made() -> None:
    begun, go = Event(), Event()

    def second() -> int:
        begun.set()
        go.wait(20)
        return 2

    made: list[int] = []
    found = prefetch.prefetch_calls(iter([lambda: 1, second, *[partial(made.append, n) for n in range(4)]]), 1, 4)
    assert next(found) == 1
    assert begun.wait(20)
    go.set()
    found.close()  # type: ignore[attr-defined]
    assert len(made) < 4


def test_threads_that_plan_at_the_same_time_share_no_scratch() -> None:
    planner = Planner(data_of(), PLAIN, model_of(), 0)
    with planner._column_of() as one, planner._column_of() as other:
        assert one.data_ptr() != other.data_ptr()
    with planner._column_of() as again, planner._column_of() as too:
        assert {again.data_ptr(), too.data_ptr()} == {one.data_ptr(), other.data_ptr()}  # two tensors serve two threads
        assert again.eq(-1).all()


@pytest.mark.parametrize("planners", [0, 3])
def test_so_many_threads_plan_ahead(planners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def noted(calls: Iterator[PlannedBatch], threads: int) -> Iterator[Batch]:
        told.append(threads)
        return prefetch.prefetch_calls(calls, threads)

    monkeypatch.setattr(loop, "prefetch_calls", noted)
    model, planner = model_of(), Planner(data_of(), BESIDE, model_of(), 0)
    steppers = steppers_of(model)
    list(loop.warm_up(model, steppers, planner, planners=planners))
    list(loop.train_epoch(model, steppers, planner, 0, planners=planners))
    assert told == [planners] * 2 if planners else not told


@pytest.mark.parametrize("objective", [PLAIN, BESIDE])
def test_rows_are_cut_into_pieces_where_the_device_wants_it(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for piece in (None, 2):
        monkeypatch.setattr(steps, "PIECES", {"cpu": piece})
        model = model_of()
        step = Planner(data_of(), objective, model, 0).step(torch.tensor([0, 3, 5, 6]), 0, 0)
        assert (step.pooling.pieces is not None) == (piece is not None)
        found.append(gradients(model, loop.step_losses(model, step.to(torch.device("cpu")), objective)[2]))
    torch.testing.assert_close(found[0], found[1])


def test_a_call_that_goes_wrong_ahead_is_raised_in_its_turn() -> None:
    def fault() -> int:
        raise ValueError("second")

    found = prefetch.prefetch_calls(iter([lambda: 1, fault, lambda: 3]), 2)
    assert next(found) == 1
    with pytest.raises(ValueError, match="second"):
        next(found)


def test_steps_that_are_planned_ahead_are_the_same_steps() -> None:
    weights = []
    for planners in (0, 1, 3):
        model, data = model_of(), data_of([(q, time, q) for q in range(8) for time in range(5)])
        planner = Planner(data, replace(WITH_SSL, batch_size=4), model, 3)
        losses_of = list(loop.train_epoch(model, steppers_of(model), planner, 1, planners=planners))
        assert len(losses_of) == 10
        weights.append(weights_of(model))
    assert same(weights[0], weights[1])
    assert same(weights[0], weights[2])


# --- non-finite numbers (F43) ---


@pytest.mark.parametrize("planted", [float("nan"), float("-inf")])
@pytest.mark.parametrize("at", [0, 1, loop.CHECK - 1, loop.CHECK, loop.CHECK + 1])
def test_a_number_planted_at_a_step_is_named_before_the_next_look_is_over(planted: float, at: int) -> None:
    model, data = model_of(), data_of([(q, time, q) for q in range(8) for time in range(loop.CHECK + 4)])
    objective = replace(PLAIN, batch_size=8, ssl=SSL)
    found = epoch_of(model, steppers_of(model), data, objective, seed=0, epoch=7)
    for _ in range(at):
        next(found)
    data.log_q.fill_(planted)
    with pytest.raises(losses.NonFiniteLossError, match=rf"epoch 7, step {at}: loss \S+ \(main (nan|-?inf)"):
        list(islice(found, loop.CHECK))


@pytest.mark.parametrize("objective", [PLAIN, WITH_SSL])
def test_a_weight_that_is_not_a_number_is_found_at_once(objective: Objective) -> None:
    model = model_of()
    with torch.no_grad():
        model.embeddings.weight[:] = float("nan")
    with pytest.raises(losses.NonFiniteLossError, match="step 0"):
        list(epoch_of(model, steppers_of(model), data_of(), objective, seed=0, epoch=0))


def test_a_number_that_only_the_ssl_loss_meets_is_found_too() -> None:
    """The word of a cold item, 9, is NaN: the main loss is finite."""
    model, objective = model_of(), replace(WITH_SSL, ssl=replace(SSL, batch_size=200))
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["words"] + 9 + 2] = float("nan")
    list(epoch_of(copy.deepcopy(model), steppers_of(model), data_of(), PLAIN, seed=0, epoch=0))
    with pytest.raises(losses.NonFiniteLossError, match="step 0"):
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
    found = embed_items(model, ITEMS, block)
    assert (found.shape, found.dtype, found.requires_grad) == ((N, 8), torch.float32, False)
    one_by_one = torch.cat([model.item(bags_of(ITEMS, torch.tensor([row]))) for row in range(N)])
    torch.testing.assert_close(found, one_by_one.detach())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(N))


@pytest.mark.parametrize("block", [1, 8192])
def test_queries_are_embedded_as_they_stand_at_the_end_of_the_log(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query 0 took 4, 2, 7: its last two are 2 and 7. Query 1 took 3, the others nothing."""
    monkeypatch.setattr("ssl_recall.embedding.WITH_HISTORY", block)
    data, model = data_of([(0, 1, 4), (0, 2, 2), (0, 3, 7), (1, 0, 3)]), model_of(history=True)

    def average(*rows: int) -> Tensor:
        parts = [bags_of(ITEMS, torch.tensor([row])) for row in rows] or [nothing_known(ITEMS, 1)]
        known = [model.item.features(model.embeddings(bags, model.item.starts), bags) for bags in parts]
        return torch.stack(known).mean(0)

    past = torch.cat([average(2, 7), average(3), *[average()] * 6])
    expected = model.query(bags_of(QUERIES, torch.arange(8)), past).detach()
    rows = torch.arange(8)
    found = embed_queries(model, QUERIES, None, so_far(data.log, rows, 2), ITEMS)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(found, expected)
    rows = torch.tensor([5, 0, 0])
    torch.testing.assert_close(
        embed_queries(model, QUERIES, rows, so_far(data.log, rows, 2), ITEMS), expected[[5, 0, 0]]
    )


@pytest.mark.parametrize("objective", [PLAIN, replace(WITH_SSL, history=2), BESIDE])
def test_moving_a_step_keeps_what_it_holds(objective: Objective) -> None:
    model = model_of(history=objective.history > 0)
    step = Planner(data_of(), objective, model, 0).step(torch.tensor([0, 3]), 0, 0)
    moved = step.to(torch.device("cpu"))
    assert loop.step_losses(model, moved, objective) == loop.step_losses(model, step, objective)
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
