"""Fit: a resumed training equals an uninterrupted one bit for bit, and needs every piece of the state for it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.learning import model_files
from stages.learning.fit import Fit
from stages.learning.settings import SelectOn, TrainSettings
from stages.learning.training_inputs import TRAINING_READS, load_training_inputs
from stages.run_folder import reader
from stages.terminal.errors import NumberError

from ...jobs import build_views

State = tuple[dict[str, Tensor], dict[str, Any]]
SETTINGS = TrainSettings(
    ssl_batch_size=16, ssl_warmup_steps=3, ssl_every=1, temperature=0.1, batch_size=16, further_negatives=16,
    cold_negative_rate=0.01, epochs=3, select_on=SelectOn.ALL, validation_queries=100, learning_rate=0.01,
    average_decay=0.9, embedding_width=8, hidden=[8], width=8, feature_dropout=0.1, device="cpu",
)  # fmt: skip


class Halt:
    """Copies the state of a training after `after` steps, and stops the training."""

    class ReachedError(Exception):
        """The training has taken `after` steps."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.kept: State = ({}, {})

    def after_step(self, fit: Fit) -> None:
        """Count down; then copy the tensors, which the training would change."""
        self.left -= 1
        if self.left == 0:
            self.kept = {name: tensor.clone() for name, tensor in fit.tensors().items()}, fit.state()
            raise Halt.ReachedError


@pytest.fixture
def fresh(shop: Path) -> Callable[..., Fit]:
    """Return a function that makes trainings before their first step: 3 steps of warm-up, then epochs of 5."""
    build_views(shop / "run", variants=3)
    with reader.reading(shop / "run", (*TRAINING_READS, "views.parquet")) as job:
        data, held_out = load_training_inputs(job, SETTINGS)
        features = job.read("features.parquet")

    def made(*, bf16: bool = False, **changes: Any) -> Fit:
        model = model_files.build(data.items, data.queries, features, SETTINGS.shape)
        return Fit(model, data, held_out, replace(SETTINGS, **changes), torch.device("cpu"), bf16=bf16)

    return made


def end(fit: Fit) -> tuple[list[Tensor], str]:
    """Train to the end; return the weights, and the curve as text, because nan != nan."""
    fit.run("")
    return [weight.detach().clone() for weight in fit.model.parameters()], str(fit.curve)


def same(one: tuple[list[Tensor], str], other: tuple[list[Tensor], str]) -> bool:
    return all(map(torch.equal, one[0], other[0])) and one[1] == other[1]


def stopped(fit: Fit, after: int) -> State:
    halt = Halt(after)
    with pytest.raises(Halt.ReachedError):
        fit.run("", halt.after_step)
    return halt.kept


@pytest.mark.parametrize("after", range(1, 3 + 3 * 5 + 1))
def test_f23_stopped_after_any_step_it_ends_as_if_it_had_not_been(fresh: Callable[[], Fit], after: int) -> None:
    """The steps include the warm-up and its end, an epoch and its end, and the last step."""
    whole = fresh()
    expected = end(whole)
    assert [row["steps"] for row in whole.curve] == [5, 5, 5]
    fit = fresh()
    fit.restore(*stopped(fresh(), after))
    assert same(end(fit), expected)


def test_f23_stopped_twice_in_one_epoch_it_ends_as_if_it_had_not_been(fresh: Callable[[], Fit]) -> None:
    second, third = fresh(), fresh()
    second.restore(*stopped(fresh(), 9))
    third.restore(*stopped(second, 2))
    assert len(third.losses) == 3
    assert same(end(third), end(fresh()))


def without(pattern: str) -> Callable[[State, Fit], State]:
    """Reset the tensors of a name to those before the first step, or drop them if there are none."""

    def left_out(state: State, begun: Fit) -> State:
        first = begun.tensors()
        kept = {name: first.get(name) if name.startswith(pattern) else tensor for name, tensor in state[0].items()}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}, state[1]

    return left_out


def changed(**told: Any) -> Callable[[State, Fit], State]:
    return lambda state, _: (state[0], state[1] | told)


def losses(kept: slice) -> Callable[[State, Fit], State]:
    return lambda state, _: (state[0] | {"losses": state[0]["losses"][kept]}, state[1])


PIECES = {
    "the embedding table": without("model.embeddings"),
    "the query tower": without("model.query"),
    "the item tower": without("model.item"),
    "the running average": without("average."),
    "the sums of row-wise Adagrad": without("optimiser.0."),
    "the moments of AdamW": without("optimiser.1."),
    "the best epoch's weights": without("best."),
    "the epoch": changed(epoch=0),
    "the curve": changed(curve=[]),
    "the step": losses(slice(0, 1)),
    "the losses": lambda state, _: (state[0] | {"losses": torch.zeros_like(state[0]["losses"])}, state[1]),
}


@pytest.mark.parametrize("piece", PIECES)
def test_f22_with_a_piece_of_the_state_left_out_it_ends_otherwise(fresh: Callable[[], Fit], piece: str) -> None:
    """This is the control of the tests above: they fail without any one piece of the state."""
    fit = fresh()
    state = stopped(fresh(), 3 + 5 + 2)  # two steps into the second epoch
    if piece == "the best epoch's weights":
        state[1]["curve"][0]["recall"] = 2.0  # no later epoch is better, so these weights are kept
        expected = fresh()
        expected.restore(*state)
        whole = end(expected)
    else:
        whole = end(fresh())
    try:
        fit.restore(*PIECES[piece](state, fresh()))
        assert not same(end(fit), whole)
    except (KeyError, IndexError):
        assert piece in {"the best epoch's weights", "the curve"}  # without these, a resume fails


def test_a_state_of_another_model_is_refused(fresh: Callable[[], Fit]) -> None:
    tensors, told = fresh().tensors(), fresh().state()
    for wrong in (
        {name: part for name, part in tensors.items() if name != "average.0"},
        tensors | {"model.embeddings.weight": torch.zeros(3, 3)},
    ):
        with pytest.raises(ValueError, match="is not there, or of another shape"):
            fresh().restore(wrong, told)


@pytest.mark.parametrize("last", [False, True], ids=["in a pass", "in its last step"])
def test_f43_a_gradient_that_is_no_number_stops_the_training(fresh: Callable[[], Fit], last: bool) -> None:
    """The nan is planted after the loss of the step, so that only the weights show it."""
    fit = fresh()

    class Plant(Halt):
        def after_step(self, fit: Fit) -> None:
            self.left -= 1
            if self.left == 0:
                with torch.no_grad():
                    next(iter(fit.model.item.parameters())).fill_(math.nan)

    with pytest.raises(NumberError, match=r"epoch 0, step (4: a weight is not finite|2: loss nan)"):
        fit.run("", Plant(3 + (5 if last else 2)).after_step)


@pytest.mark.parametrize(("bf16", "within"), [(True, "medium"), (False, "highest")])
def test_products_are_rounded_in_the_losses_and_not_in_validation(
    fresh: Callable[..., Fit], bf16: bool, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_recall import losses
    from ssl_recall.evaluation import validation
    from ssl_recall.losses import in_batch_softmax

    seen: dict[str, set[str]] = {"loss": set(), "look": set()}
    loss, look, now = in_batch_softmax, validation.recall, torch.get_float32_matmul_precision
    monkeypatch.setattr(losses, "in_batch_softmax", lambda *a: (seen["loss"].add(now()), loss(*a))[1])
    monkeypatch.setattr(validation, "recall", lambda *a: (seen["look"].add(now()), look(*a))[1])
    before = now()
    torch.set_float32_matmul_precision("highest")
    try:
        end(fresh(bf16=bf16))
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {"loss": {within}, "look": {"highest"}}


def test_stopped_between_two_turns_of_the_self_supervised_task(
    fresh: Callable[..., Fit],
) -> None:
    expected = end(fresh(ssl_every=4))
    for after in (5, 7, 9):
        fit = fresh(ssl_every=4)
        fit.restore(*stopped(fresh(ssl_every=4), after))
        assert same(end(fit), expected)
