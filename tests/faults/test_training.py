"""Losses that are not finite, invalid temperatures, and the same item twice in a batch."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_recall.kernels.softmax import Pairs
from ssl_recall.losses import in_batch_softmax, self_supervised
from ssl_recall.training.excluded_pairs import pairs_of_equal

from .commands import call

UNIT = torch.nn.functional.normalize


def pairs(*cells: tuple[int, int], rows: int) -> Pairs:
    ordered = sorted(cells)
    bounds = [sum(row < end for row, _ in ordered) for end in range(rows + 1)]
    row, column = (torch.tensor([cell[side] for cell in ordered], dtype=torch.int64) for side in (0, 1))
    return Pairs(row, column, bounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_f42_an_item_that_the_query_took_has_probability_exactly_0(dtype: torch.dtype) -> None:
    """Its vector gets no gradient; the vector of a true negative does."""
    vectors = UNIT(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=1).to(dtype)
    items = vectors.clone().requires_grad_()
    query = vectors[:1].clone().requires_grad_()
    log_p, times = torch.tensor([-1.0, -2.0, -3.0]), torch.ones(3)
    loss = in_batch_softmax(query, items, torch.tensor([0]), log_p, times, pairs((0, 1), rows=1), 0.05)
    loss.backward()
    assert items.grad is not None
    assert (items.grad[1] == 0).all()
    assert (items.grad[2] != 0).any()
    assert loss.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "own",
    [[0, 0, 0, 0], [0, 1, 0, 1]],
    ids=["all rows one item", "two items, each twice"],
)
def test_f42_a_batch_of_one_item_has_a_finite_loss(own: list[int], dtype: torch.dtype) -> None:
    count = len(set(own))
    queries = UNIT(torch.randn(4, 8, generator=torch.Generator().manual_seed(2)), dim=1).to(dtype).requires_grad_()
    items = UNIT(torch.randn(count, 8, generator=torch.Generator().manual_seed(3)), dim=1).to(dtype).requires_grad_()
    times = torch.bincount(torch.tensor(own)).float()
    known = pairs(*enumerate(own), rows=4)
    loss = in_batch_softmax(queries, items, torch.tensor(own), torch.zeros(count), times, known, 0.05)
    loss.backward()
    assert loss.isfinite()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    if count == 1:
        assert loss == 0
        assert (queries.grad == 0).all()


def test_f42_an_item_drawn_twice_is_no_negative_of_itself() -> None:
    same = UNIT(torch.ones(1, 4), dim=1).expand(3, 4)
    ids = torch.tensor([7, 7, 7])
    assert self_supervised(same, same, pairs_of_equal(ids, ids), 0.1) == 0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("flag", ["--temperature", "--ssl-temperature"])
def test_f43_a_temperature_that_cannot_be_is_exit_2(shop_run: Path, flag: str, value: str) -> None:
    assert call("build-views").returncode == 0
    refused = call("train", flag, value)
    assert refused.returncode == 2, refused.said
    assert not (shop_run / "model").exists()


def test_f43_vectors_of_length_0_have_finite_gradients() -> None:
    queries = torch.zeros(2, 4).requires_grad_()
    items = UNIT(torch.randn(2, 4), dim=1)
    known = pairs((0, 0), (1, 1), rows=2)
    loss = in_batch_softmax(
        UNIT(queries, dim=1, eps=1e-6), items, torch.arange(2), torch.zeros(2), torch.ones(2), known, 0.05
    )
    loss.backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def planted(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a checkpoint, and name the file by its new hash."""
    with safe_open(path, "pt") as file:
        told = file.metadata()
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, told)
    path.rename(path.with_name(f"{path.name[:10]}-{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"))


@pytest.mark.parametrize("ssl", [True, False], ids=["SSL", "no SSL"])
def test_f43_a_loss_that_is_no_number_is_exit_6_with_the_step_and_the_last_checkpoint(
    shop_run: Path, ssl: bool
) -> None:
    """Plant weights in the checkpoint so large that the next step's products are infinite."""
    import signal

    from stages.learning import checkpoints

    kind = [] if ssl else ["--no-ssl"]
    folder = shop_run / ("" if ssl else "no-ssl") / "checkpoints"
    assert call("build-views").returncode == 0
    save = checkpoints.Keeper.save

    def stop(self: checkpoints.Keeper, fit: Any) -> bool:
        self.asked.number = signal.SIGINT
        return save(self, fit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Keeper, "save", stop)
        assert call("train", *kind, "--checkpoint-seconds", "0").returncode == 130
    (only,) = folder.iterdir()

    def enlarge(tensors: dict[str, Tensor]) -> None:
        for name, weight in tensors.items():
            if name.startswith("model."):
                weight.fill_(3e38)

    planted(only, enlarge)
    before = [path.name for path in folder.iterdir()]
    failed = call("train", *kind, "--checkpoint-seconds", "0")
    assert failed.returncode == 6, failed.said
    assert re.search(r"NON_FINITE: (warm-up|epoch 0), step \d+: ", failed.said)
    assert re.search(r"the last checkpoint is of (the warm-up|epoch 0), step 1\b", failed.said)
    assert [path.name for path in folder.iterdir()] == before, "it saved a training that is not finite"
    assert not [*shop_run.glob("**/model/*")]
    assert call("train", *kind, "--force").returncode == 0
