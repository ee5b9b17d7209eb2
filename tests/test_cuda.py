"""The same code gives the same results on a GPU as on the processor. Skipped without a GPU."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from ssl_recall.evaluation import retrieval
from ssl_recall.kernels import optimisers
from ssl_recall.training import loop, state
from ssl_recall.training import planner as steps
from ssl_recall.training.objective import Objective
from ssl_recall.training.planner import Planner
from stages import cli
from stages.learning import hardware

from .ssl_recall.small_world import BESIDE, PLAIN, WITH_SSL, data_of, model_of, steppers_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU, CPU = torch.device("cuda"), torch.device("cpu")
OBJECTIVES = [PLAIN, replace(WITH_SSL, history=2, further_negatives=5, feature_dropout=0.2), BESIDE]


@pytest.fixture(autouse=True)
def set_up() -> None:
    hardware.use(1, GPU)


def after_steps(objective: Objective, device: torch.device, many: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the losses of an epoch's first steps and the weights after them, in main memory."""
    model = model_of(history=objective.history > 0).to(device)
    data = data_of([(q, time, q) for q in range(8) for time in range(many)])
    planner, taken = Planner(data, objective, model, 3), []
    for number, step in enumerate(loop.train_epoch(model, steppers_of(model), planner, 0, planners=2), 1):
        taken.append(torch.stack([step.main, step.ssl, step.total]).cpu())
        if number == many:
            break
    return taken, [weight.detach().cpu() for weight in model.parameters()]


@pytest.mark.parametrize("piece", [2, 64])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_weights_are_those_of_the_processor(
    objective: Objective, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PIECES", {"cuda": piece})
    here, there = (after_steps(objective, device, 4) for device in (CPU, GPU))
    for expected, found in zip(here, there, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch warns that it is a prototype
@pytest.mark.parametrize("objective", [*OBJECTIVES, replace(BESIDE, bf16=True)])
def test_a_step_never_waits_for_the_gpu(objective: Objective) -> None:
    model = model_of(history=objective.history > 0).to(GPU)
    steppers, average = steppers_of(model), optimisers.RunningAverage(loop.dense_weights(model), 0.9)
    planner = Planner(data_of(), objective, model, 0)
    planned = [planner.step(torch.tensor([0, 3, 5, 6]), 0, number).pinned() for number in range(3)]
    loop.take_step(model, steppers, planned[0].to(GPU), objective, average)  # may wait: it loads libraries
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in planned[1:]:
            loop.take_step(model, steppers, step.to(GPU), objective, average)
        with pytest.raises(RuntimeError, match="synchronizing"):
            torch.ones(1, device=GPU).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_an_epoch_waits_for_the_gpu_only_to_look_at_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK", 99)
    model = model_of().to(GPU)
    planner = Planner(data_of([(q, time, q) for q in range(8) for time in range(4)]), BESIDE, model, 3)
    epoch = loop.train_epoch(model, steppers_of(model), planner, 0, planners=2)
    next(epoch)
    try:
        torch.cuda.set_sync_debug_mode("error")
        taken = [next(epoch) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        epoch.close()
    assert all(step.total.isfinite() for step in taken)


def test_a_training_goes_on_from_what_was_kept_of_it() -> None:
    ends = []
    for stop in (False, True):
        model = model_of().to(GPU)
        steppers, average = steppers_of(model), optimisers.RunningAverage(loop.dense_weights(model), 0.9)
        planner = Planner(data_of([(q, time, q) for q in range(8) for time in range(4)]), BESIDE, model, 3)
        epoch = loop.train_epoch(model, steppers, planner, 0, average)
        for _ in range(3):
            next(epoch)
        if stop:
            kept = {
                name: tensor.cpu().clone() for name, tensor in state.state_tensors(model, steppers, average).items()
            }
            model = model_of(seed=9).to(GPU)
            steppers, average = steppers_of(model), optimisers.RunningAverage(loop.dense_weights(model), 0.9)
            state.restore_state(kept, model, steppers, average)
            planner = Planner(planner.data, BESIDE, model, 3)
            epoch = loop.train_epoch(model, steppers, planner, 0, average, first=3)
        for _ in range(3):
            next(epoch)
        ends.append(list(state.state_tensors(model, steppers, average).values()))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_lists_are_those_of_the_processor() -> None:
    source = torch.Generator().manual_seed(0)
    queries, items = (torch.nn.functional.normalize(torch.randn(n, 16, generator=source), dim=1) for n in (70, 5_000))
    known = torch.arange(71), torch.randint(5_000, (70,), generator=source)
    here = retrieval.top_k(queries, items, 20, known)
    there = retrieval.top_k(queries.to(GPU), items.to(GPU), 20, tuple(part.to(GPU) for part in known))
    torch.testing.assert_close(there[1].cpu(), here[1], rtol=1e-5, atol=1e-6)
    assert (there[0].cpu() == here[0]).double().mean() > 0.999


def test_the_stages_train_and_export_there(shop: Path) -> None:
    vectors = {}
    for device in ("cpu", "cuda"):
        for command in ("build-views", "train", "export-embeddings"):
            more = [] if command == "build-views" else ["--device", device]
            result = CliRunner().invoke(cli.app, [command, *more, "--run", "run"], catch_exceptions=False)
            assert result.exit_code == 0, result.output
        vectors[device] = pl.read_parquet("run/item_embeddings.parquet")["embedding"].to_torch()
    torch.testing.assert_close(vectors["cuda"], vectors["cpu"], rtol=1e-3, atol=1e-3)
