"""hardware: it sets the threads, and keeps float32 products exact."""

from collections.abc import Iterator

import pytest
import torch

from stages.learning import hardware


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


CPU = torch.device("cpu")


@pytest.mark.parametrize(("error", "expected"), [(1e-6, "medium"), (1e-3, "highest")])
def test_products_that_would_be_rounded_are_taken_elsewhere(
    error: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_error", lambda _: error)
    hardware.use(2, CPU)
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == expected


def test_whatever_this_processor_does_float32_products_are_exact() -> None:
    hardware.use(1, CPU)
    assert hardware._error(CPU) < 1e-5


def test_the_c_library_is_told_to_keep_what_a_step_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            told[option] = value
            return 1

    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: Library())
    hardware.use(1, CPU)
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # malloc.h
    assert told == {m_trim_threshold: 2**28, m_top_pad: 2**26, m_mmap_threshold: 2**25}


def test_without_the_gnu_c_library_memory_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: object())
    hardware.use(2, CPU)
    assert torch.get_num_threads() == 2


def test_whether_sparse_tensors_are_checked_is_said() -> None:
    """Torch 2.11 warns if it is not set."""
    torch.sparse.check_sparse_tensor_invariants.enable()
    hardware.use(1, CPU)
    assert not torch.sparse.check_sparse_tensor_invariants.is_enabled()


def test_an_error_is_measured_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return product(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else product(a, b)

    assert hardware._error(CPU) < 1e-5
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert hardware._error(CPU) > 1e-4


@pytest.mark.parametrize(
    ("cores", "threads", "on_processor", "on_gpu"),
    [(1, 1, 0, 1), (2, 1, 1, 1), (2, 2, 0, 1), (4, 1, 1, 3), (4, 6, 0, 1), (64, 2, 1, 4)],
)
def test_steps_are_planned_by_the_cores_that_are_left(
    cores: int, threads: int, on_processor: int, on_gpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert hardware.planners(threads, CPU) == on_processor
    assert hardware.planners(threads, torch.device("cuda")) == on_gpu
    monkeypatch.delattr(hardware.os, "sched_getaffinity")  # not Linux
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: cores)
    assert hardware.planners(threads, CPU) == on_processor


@pytest.mark.parametrize(("gain", "expected"), [(2.0, True), (1.5, True), (1.2, False), (0.5, False)])
def test_bf16_is_taken_where_it_is_clearly_faster(gain: float, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gain", lambda _: gain)
    found = {one: hardware.takes_bf16(one, CPU) for one in hardware.Precision}
    assert found == {
        hardware.Precision.AUTO: expected,
        hardware.Precision.FLOAT32: False,
        hardware.Precision.BFLOAT16: True,
    }


def test_the_gain_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only products move the clock: 0.3 s in float32, 0.1 s in bf16."""
    product, now = torch.Tensor.__matmul__, [0.0]

    def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        now[0] += 0.1 if a.dtype == torch.bfloat16 else 0.3
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", slow)
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now[0])
    assert hardware._gain(CPU) == pytest.approx(3.0)
