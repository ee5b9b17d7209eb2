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


@pytest.mark.parametrize(("ratio", "expected"), [(2.0, True), (1.5, True), (1.2, False), (0.5, False)])
def test_bf16_is_taken_where_it_is_clearly_faster(
    ratio: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_seconds", lambda _, dtype: ratio if dtype == "float32" else 1.0)
    found = {one: processor.takes_bf16(one, torch.device("cpu")) for one in processor.Precision}
    assert found == {
        processor.Precision.AUTO: expected,
        processor.Precision.FLOAT32: False,
        processor.Precision.BFLOAT16: True,
    }


def test_a_product_is_timed() -> None:
    assert all(0 < processor._seconds(torch.device("cpu"), dtype) < 10 for dtype in ("float32", "bfloat16"))
