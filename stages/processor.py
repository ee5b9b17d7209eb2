"""How torch uses the processor: threads, and which library multiplies."""

EXACT = 1e-5  # relative error of a float32 product; one that is rounded to bf16 on the way has 1e-3


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
