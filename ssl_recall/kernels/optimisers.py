"""Row-wise Adagrad for the embedding table, and a running average of weights."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import overload

import torch
from torch import Tensor


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad whose accumulator sums the mean square of a row's gradients (Duchi et al. 2011; DLRM's row-wise form).

    Memory is one float per row instead of one per weight. A step costs as much as its rows, whatever the table's size.
    Gradients must be sparse (`pooling.pool`, `embedding_bag(..., sparse=True)`).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        initial_accumulator: float = 0.0,
        eps: float = 1e-8,
        *,
        distinct: bool = False,
    ) -> None:
        """`distinct` promises that a gradient has each row once, as `pooling.pool` makes it, and saves a sort.

        With `initial_accumulator` 0, a row's first step is `lr` long, however small its gradient. With more, rows of
        small gradients move little. A loss's weight then affects the rows that only this loss touches; plain Adagrad
        cancels that weight, because it ignores the scale of gradients.
        """
        super().__init__(params, {"lr": lr, "initial_accumulator": initial_accumulator, "eps": eps})
        self.distinct = distinct

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient; evaluate a closure first, as torch does."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["sum"] = torch.full((len(weight),), group["initial_accumulator"], device=weight.device)
                gradient = weight.grad._coalesced_(True) if self.distinct else weight.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                # rows are distinct: to gather, change and copy them back is faster than to add in place
                sums = state["sum"].index_select(0, rows).add_(values.pow(2).mean(1))
                state["sum"].index_copy_(0, rows, sums)
                steps = values / sums.sqrt_().add_(group["eps"]).div_(-group["lr"])[:, None]
                weight.index_copy_(0, rows, steps.add_(weight.index_select(0, rows)))
        return loss


class RunningAverage:
    """Exponential moving average of weights over steps (Polyak averaging), which is validated and saved.

    The weights at the end of an epoch depend on its last few batches; their average does not.
    """

    def __init__(self, weights: Iterable[Tensor], decay: float) -> None:
        """Start from the current weights; a decay of 0.99 averages about the last 100 steps, 0 keeps the last step."""
        self.weights, self.decay = list(weights), decay
        self.average = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights of one more step to the average."""
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self.weights], 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by their average until the block ends."""
        own = [weight.detach().clone() for weight in self.weights]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)
