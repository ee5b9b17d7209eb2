"""Index arithmetic for ragged arrays."""

import torch
from torch import Tensor


def concatenated_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Concatenate start .. start + length - 1 of every row: (B,), (B,) -> (sum of lengths,)."""
    ends = torch.cumsum(lengths, 0)
    shift = torch.repeat_interleave(starts - ends + lengths, lengths)
    return shift + torch.arange(len(shift), device=starts.device)
