"""How torch uses the hardware: threads, library and precision of the matrix products, memory."""

import contextlib
import ctypes
import math
import os
import time
from typing import TYPE_CHECKING

from stages.terminal.errors import SettingsError

from .settings import Precision

if TYPE_CHECKING:
    import torch


EXACT = 1e-5  # largest relative error of a float32 product; one with inputs rounded to bf16 has 1e-3
PAYS = 1.4  # lowest speed of bf16 products, relative to float32, at which training uses them
KEPT = {-1: 2**28, -2: 2**26, -3: 2**25}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of mallopt(3), bytes
TRIED = {"cpu": 512, "cuda": 4096}  # rows and columns of the timed product; a small one on a GPU times the launch
PLANNERS = 4  # maximum number of threads that plan steps for a GPU: eight were no faster on an H100


def use(threads: int, device: "torch.device") -> None:
    """Set the threads, keep freed memory, and use oneDNN's matrix products, on AMD processors twice as fast as MKL's.

    If a test product shows that this rounds float32 inputs (AMX, GPU), the precision is set back to "highest". Only
    the products of a training step may be rounded, as `takes_bf16` decides.
    """
    import torch

    _keep_memory()
    torch.set_num_threads(threads)
    torch.sparse.check_sparse_tensor_invariants.disable()  # the default; torch 2.11 warns if it is not set
    torch.set_float32_matmul_precision("medium")
    if _error(device) > EXACT:
        torch.set_float32_matmul_precision("highest")


def _keep_memory() -> None:
    """Make the C library keep a step's memory for the next step, which otherwise asks the kernel for new pages."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        library = ctypes.CDLL(None)
        for option, value in KEPT.items():
            library.mallopt(option, value)


def planners(threads: int, device: "torch.device") -> int:
    """Return the number of threads that plan the next steps during the current one.

    A processor gets one if a core is free, otherwise none: planning is faster than the step, and without a free core
    each slows the other. A GPU takes steps faster than one thread plans them, so it gets all free cores, 1 to PLANNERS.
    """
    own = getattr(os, "sched_getaffinity", None)  # Linux alone knows which cores a process may use
    spare = (len(own(0)) if own else os.cpu_count() or 1) - threads
    return min(max(spare, 0), 1) if device.type == "cpu" else min(max(spare, 1), PLANNERS)


def _error(device: "torch.device") -> float:
    """Measure the largest relative error of a float32 product at the current precision."""
    import torch

    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu()
    return float((found.double() - expected).abs().max() / expected.abs().max())


def takes_bf16(precision: Precision, device: "torch.device") -> bool:
    """Return True for bf16 products: if the setting says so, or if `auto` measures that they are clearly faster."""
    if precision is not Precision.AUTO:
        return precision is Precision.BFLOAT16
    return _gain(device) > PAYS


def _gain(device: "torch.device") -> float:
    """Return the speed of bf16 products relative to float32, by the fastest times, because other work only slows."""
    import torch

    size = TRIED.get(device.type, TRIED["cpu"])
    pairs = [[torch.ones(size, size, dtype=d, device=device)] * 2 for d in (torch.float32, torch.bfloat16)]
    best = [math.inf, math.inf]
    for _ in range(20):
        for kind, (a, b) in enumerate(pairs):
            start = time.perf_counter()
            (a @ b)[0, 0].item()
            best[kind] = min(best[kind], time.perf_counter() - start)
    return best[0] / best[1]


def device_of(name: str) -> "torch.device":
    """Return the device; `auto` is CUDA if available. Raises SettingsError if torch cannot use the name."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name}: {str(error).splitlines()[0]}; try auto or cpu", "DEVICE") from None
    return torch.device(name)
