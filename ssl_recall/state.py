"""All that a training is, as named tensors: what a checkpoint holds, and what makes its other half bit-exact.

Batches are a function of (seed, epoch, step), so no generator is among it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .optimisers import RunningAverage
from .towers import TwoTower


def collected(model: TwoTower, steppers: Sequence[torch.optim.Optimizer], average: RunningAverage) -> dict[str, Tensor]:
    """Name the tensors of weights, optimisers and running average; they are the training's own, not copies."""
    tensors = {f"model.{name}": weight.detach() for name, weight in model.named_parameters()}
    tensors |= {f"average.{number}": weight for number, weight in enumerate(average.average)}
    for number, stepper in enumerate(steppers):
        for place, weight in enumerate(_weights(stepper)):
            tensors |= {f"optimiser.{number}.{place}.{key}": part for key, part in stepper.state[weight].items()}
    return tensors


@torch.no_grad()
def restore(
    tensors: Mapping[str, Tensor],
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    average: RunningAverage,
) -> None:
    """Put what `collected` named back. Raises ValueError where it is of another model."""
    own = collected(model, [], average)
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise ValueError(f"{name}: is not there, or of another shape")
        tensor.copy_(tensors[name])
    for number, stepper in enumerate(steppers):
        for place, weight in enumerate(_weights(stepper)):
            start = f"optimiser.{number}.{place}."
            state = {name.removeprefix(start): part for name, part in tensors.items() if name.startswith(start)}
            # copies, so that nothing is shared with the file; a count of steps lies there too, as fused ones ask for
            stepper.state[weight] = {key: part.to(weight.device, copy=True) for key, part in state.items()}


def _weights(stepper: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in stepper.param_groups for weight in group["params"]]
