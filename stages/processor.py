"""How torch uses the processor: threads, which library multiplies, and how precisely."""

import contextlib
import ctypes
import math
import os
import time
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EXACT = 1e-5  # relative error of a float32 product; one that is rounded to bf16 on the way has 1e-3
PAYS = 1.4  # times the rate of float32 from which bf16 products are taken
KEPT = {-1: 2**28, -2: 2**26, -3: 2**25}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of mallopt(3), bytes
TRIED = {"cpu": 512, "cuda": 4096}  # rows and columns of the product that tells; on a GPU a launch would hide less
PLANNERS = 4  # threads that plan steps for a GPU, at most: eight were no faster on an H100


class Precision(StrEnum):
    """Of the matrix products in training, of towers and softmax; everything else is float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def use(threads: int, device: "torch.device") -> None:
    """Set the threads, keep freed memory, and take oneDNN's matrix products, on AMD processors twice as fast as MKL's.

    Where this would round float32 products on the way (a processor with AMX, a GPU) they stay as they were: tried, not
    assumed. What may be rounded says so itself: the products of a training step, by `takes_bf16`.
    """
    import torch

    _keep_memory()
    torch.set_num_threads(threads)
    torch.sparse.check_sparse_tensor_invariants.disable()  # as it is by default; torch 2.11 warns where it is not said
    torch.set_float32_matmul_precision("medium")
    if _error(device) > EXACT:
        torch.set_float32_matmul_precision("highest")


def _keep_memory() -> None:
    """Have the C library keep the memory of a step's tensors for the next one, which else asks the kernel for pages."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        library = ctypes.CDLL(None)
        for option, value in KEPT.items():
            library.mallopt(option, value)


def planners(threads: int, device: "torch.device") -> int:
    """Give how many threads plan steps' whole numbers beside the one that is taken.

    On a processor one where a core is free, for with none both wait: it plans faster than steps are taken. A GPU takes
    them faster, and gets what cores there are, one to PLANNERS.
    """
    own = getattr(os, "sched_getaffinity", None)  # Linux alone knows which cores a process may use
    spare = (len(own(0)) if own else os.cpu_count() or 1) - threads
    return min(max(spare, 0), 1) if device.type == "cpu" else min(max(spare, 1), PLANNERS)


def _error(device: "torch.device") -> float:
    """Measure the largest relative error of a float32 product as it is set now."""
    import torch

    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu()
    return float((found.double() - expected).abs().max() / expected.abs().max())


def takes_bf16(precision: Precision, device: "torch.device") -> bool:
    """Decide on bf16 products: as told, or where they are clearly faster here, which is tried."""
    if precision is not Precision.AUTO:
        return precision is Precision.BFLOAT16
    return _gain(device) > PAYS


def _gain(device: "torch.device") -> float:
    """Time products of both kinds in turns and compare the fastest: other work on the machine only ever slows one."""
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
