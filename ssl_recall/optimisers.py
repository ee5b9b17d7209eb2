"""What moves the weights: row-wise Adagrad for the embeddings, and a running average of all others."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import overload

import torch
from torch import Tensor


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad whose accumulator is the mean square of a row's gradient (Duchi et al. 2011; DLRM's row-wise form).

    Memory is one float a row instead of one a weight, and a step costs what its rows cost, not what the table does.
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
        """`distinct` promises that a row stands in a gradient once, as `pooling.pool` has it, and saves a sort.

        Without an initial accumulator a row's first step is `lr` long however small its gradient.

        With one, rows whose gradients have been small move little: a weight on a loss then reaches the rows that only
        this loss touches, which plain Adagrad, being free of scale, undoes.
        """
        super().__init__(params, {"lr": lr, "initial_accumulator": initial_accumulator, "eps": eps})
        self.distinct = distinct

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step along every parameter that has a gradient; a closure is evaluated first, as torch does."""
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
                # each row is there once: gathering, changing and copying it back is faster than adding in place
                sums = state["sum"].index_select(0, rows).add_(values.pow(2).mean(1))
                state["sum"].index_copy_(0, rows, sums)
                steps = values / sums.sqrt_().add_(group["eps"]).div_(-group["lr"])[:, None]
                weight.index_copy_(0, rows, steps.add_(weight.index_select(0, rows)))
        return loss


class RunningAverage:
    """Exponential moving average of weights over steps (Polyak averaging): what is validated and kept.

    The weights at the end of an epoch depend on its last few batches; their average does not.
    """

    def __init__(self, weights: Iterable[Tensor], decay: float) -> None:
        """A decay of .99 remembers about the last hundred steps; 0 keeps the last one alone."""
        self.weights, self.decay = list(weights), decay
        self.average = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self.weights], 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the weights' place until the block ends."""
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
