"""How torch uses the processor: threads, which library multiplies, and how precisely."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EXACT = 1e-5  # relative error of a float32 product; one that is rounded to bf16 on the way has 1e-3


PAYS = 1.4  # times the rate of float32 from which bf16 products are taken
TRIED = 512  # rows and columns of the product that tells


class Precision(StrEnum):
    """Of the towers' matrix products in training; everything else is float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def use(threads: int, *, exact: bool) -> None:
    """Set the threads and take oneDNN's matrix products, which on an AMD processor are twice as fast as MKL's.

    Where oneDNN would round to bf16 on the way (a processor with AMX), `exact` keeps to MKL: tried, not assumed.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")
    if exact and _error() > EXACT:
        torch.set_float32_matmul_precision("highest")


def _error() -> float:
    """Measure the largest relative error of a float32 product as it is set now."""
    import torch

    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = a.double() @ b.double()
    return float(((a @ b).double() - expected).abs().max() / expected.abs().max())


def takes_bf16(precision: Precision, device: "torch.device") -> bool:
    """Decide on bf16 products: as told, or where they are clearly faster here, which is tried."""
    if precision is not Precision.AUTO:
        return precision is Precision.BFLOAT16
    return _seconds(device, "float32") > PAYS * _seconds(device, "bfloat16")


def _seconds(device: "torch.device", dtype: str) -> float:
    """Time a product, the fastest of several tries: other work on the machine only ever makes one slower."""
    import torch

    a, b = (torch.ones(TRIED, TRIED, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    tries = []
    for _ in range(12):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        tries.append(time.perf_counter() - start)
    return min(tries)
