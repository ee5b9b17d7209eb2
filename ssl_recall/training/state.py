"""The state of a training as named tensors: a checkpoint of it makes a resume bit-exact.

Batches are a function of (seed, epoch, step), so the state has no random generator.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ssl_recall.kernels.optimisers import RunningAverage
from ssl_recall.towers import TwoTower


def state_tensors(
    model: TwoTower, steppers: Sequence[torch.optim.Optimizer], average: RunningAverage
) -> dict[str, Tensor]:
    """Name the tensors of weights, optimisers and running average; they are not copies."""
    tensors = {f"model.{name}": weight.detach() for name, weight in model.named_parameters()}
    tensors |= {f"average.{number}": weight for number, weight in enumerate(average.average)}
    for number, stepper in enumerate(steppers):
        for place, weight in enumerate(_weights(stepper)):
            tensors |= {f"optimiser.{number}.{place}.{key}": part for key, part in stepper.state[weight].items()}
    return tensors


@torch.no_grad()
def restore_state(
    tensors: Mapping[str, Tensor],
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    average: RunningAverage,
) -> None:
    """Restore the tensors of `state_tensors`. Raises ValueError if they belong to another model."""
    own = state_tensors(model, [], average)
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise ValueError(f"{name}: is not there, or of another shape")
        tensor.copy_(tensors[name])
    for number, stepper in enumerate(steppers):
        for place, weight in enumerate(_weights(stepper)):
            start = f"optimiser.{number}.{place}."
            state = {name.removeprefix(start): part for name, part in tensors.items() if name.startswith(start)}
            # copy, so that no tensor shares memory with the file; fused optimisers need their step count on the device
            stepper.state[weight] = {key: part.to(weight.device, copy=True) for key, part in state.items()}


def _weights(stepper: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in stepper.param_groups for weight in group["params"]]
