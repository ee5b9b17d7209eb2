"""How torch is set up: threads, and products that are not rounded where exactness is asked for."""

from collections.abc import Iterator

import pytest
import torch

from stages import processor


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    ("error", "exact", "expected"),
    [(1e-6, True, "medium"), (1e-3, True, "highest"), (1e-3, False, "medium"), (1e-6, False, "medium")],
)
def test_products_that_would_be_rounded_are_taken_elsewhere_where_exactness_is_asked_for(
    error: float, exact: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_error", lambda: error)
    processor.use(2, exact=exact)
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == expected


def test_whatever_this_processor_does_exact_products_are_exact() -> None:
    processor.use(1, exact=True)
    assert processor._error() < 1e-5


def test_an_error_is_measured_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return product(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else product(a, b)

    assert processor._error() < 1e-5
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert processor._error() > 1e-4
