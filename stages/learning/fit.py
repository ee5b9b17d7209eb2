"""Training in memory: load the artifacts as tensors, train epochs until the validation recall stops improving."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stages.run_folder import layout, reader
from stages.terminal import console
from stages.terminal.errors import NumberError

from . import hardware, model_files
from .objective import objective_of
from .popularity_settings import PopularitySettings
from .settings import SelectOn, TrainSettings
from .training_inputs import load_training_inputs

if TYPE_CHECKING:
    import torch

    from ssl_recall.data.packed_views import PackedViews
    from ssl_recall.evaluation.validation import HeldOut
    from ssl_recall.towers import TwoTower
    from ssl_recall.training.loop import StepLosses
    from ssl_recall.training.planner import TrainingData

K = 50  # length of the lists of the validation recall
SHOWN = ("recall_all", "recall_tail", "recall_cold", "recall_balanced")
LOSSES = "losses"  # name of the losses of a pass, among the tensors of a training
WARM_UP = -1  # the pass before epoch 0


def new_fit(
    job: reader.Reader,
    settings: TrainSettings,
    place: "torch.device",
    *,
    bf16: bool,
    views: "PackedViews | None" = None,
    weighted: PopularitySettings | None = None,
) -> "Fit":
    """Read a run folder and build the model, ready for the first step.

    Without `views` and `weighted`, the training uses the views and the popularity of the run folder.
    """
    data, held_out = load_training_inputs(job, settings, views, weighted)
    model = model_files.build(data.items, data.queries, job.read(layout.FEATURES), settings.shape)
    return Fit(model, data, held_out, settings, place, bf16=bf16)


class Fit:
    """A training in progress: model, optimisers and position. `tensors` and `state` together are its whole state.

    At the end, `model` has the weights of the best epoch; `best` is the row of that epoch in `curve`.
    """

    def __init__(
        self,
        model: "TwoTower",
        data: "TrainingData",
        held_out: "HeldOut",
        settings: TrainSettings,
        device: "torch.device",
        *,
        bf16: bool,
    ) -> None:
        """Move model and data to the device, ready for the first step."""
        from ssl_recall.kernels import optimisers
        from ssl_recall.training import loop
        from ssl_recall.training.planner import Planner

        self.model, self.data, self.device = model.to(device), data, device
        self.settings, self.bf16 = settings, bf16
        self.held_out = held_out.to(device)
        self.catalogue, self.asked, self.log = data.items.to(device), data.queries.to(device), data.log.to(device)
        self.steppers = loop.make_optimisers(
            model, settings.learning_rate, settings.embedding_learning_rate, settings.initial_accumulator
        )
        self.average = optimisers.RunningAverage(loop.dense_weights(model), settings.average_decay)
        self.planner = Planner(data, objective_of(settings, bf16=bf16), model, settings.seed)
        self.epoch = WARM_UP  # the current pass
        self.losses: list[StepLosses] = []  # one per step taken in the current pass
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.weights: dict[str, torch.Tensor] = {}  # of the best epoch

    def run(self, title: str = "", after_step: "Callable[[Fit], None] | None" = None) -> None:
        """Train until the validation recall stops improving, then restore the best epoch's weights.

        Print progress only if there is a title. Raises NumberError if a loss or a weight is not finite.
        """
        from ssl_recall.losses import NonFiniteLossError

        with console.progress(title, self.settings.epochs * self.planner.rows) as advance:
            advance(self.settings.batch_size * sum(row["steps"] for row in self.curve))
            while self.epoch < self.settings.epochs and not self._stalled():
                try:
                    self._pass(advance, after_step)
                except NonFiniteLossError as error:
                    raise NumberError(f"{error}; lower --learning-rate or raise --temperature", "NON_FINITE") from None
                if title and self.losses:
                    console.line(f"{title:<26} {self._said()}")
                self.epoch, self.losses = self.epoch + 1, []
        self._put(self.weights)

    def _pass(self, advance: Callable[[int], None], after_step: "Callable[[Fit], None] | None") -> None:
        """Take the remaining steps of the pass, then validate. Raises NonFiniteLossError."""
        from ssl_recall.losses import NonFiniteLossError

        for step in self._steps():
            self.losses.append(step)
            advance(self.settings.batch_size if self.epoch != WARM_UP else 0)
            if after_step is not None:
                after_step(self)
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise NonFiniteLossError(
                f"epoch {self.epoch}, step {len(self.losses) - 1}: a weight is not finite after it"
            )
        if self.epoch != WARM_UP:
            self._look()

    def _steps(self) -> "Iterator[StepLosses]":
        """Take the remaining steps of the pass."""
        from ssl_recall.training import loop

        planners = hardware.planners(self.settings.threads, self.device)
        common = (self.model, self.steppers, self.planner)
        first = len(self.losses)
        if self.epoch == WARM_UP:
            return loop.warm_up(*common, self.average, first=first, planners=planners)
        return loop.train_epoch(*common, self.epoch, self.average, first=first, planners=planners)

    def _look(self) -> None:
        """Measure the validation recall of the running average, and keep the weights if it is the best so far."""
        from ssl_recall.evaluation import validation
        from ssl_recall.training import loop

        select = str(self.settings.select_on)
        figure = "recall" if select == SelectOn.ALL else f"recall_{select}"
        with self.average.applied():
            history = self.settings.history
            recall = validation.recall(self.model, self.catalogue, self.asked, self.log, self.held_out, history, K)
            losses = loop.mean_losses(self.losses)
            self.curve.append({"epoch": self.epoch, "steps": len(self.losses), **losses, **recall})
            if not self.best or recall[figure] > self.best[figure]:
                self.best = self.curve[-1]
                self.weights = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    def _said(self) -> str:
        """Summarise the pass that has just ended."""
        from ssl_recall.training import loop

        if self.epoch != WARM_UP:
            return f"epoch {self.epoch}: {recall_line(self.curve[-1])}"
        loss = loop.mean_losses(self.losses)["ssl"]
        return f"warm-up: {len(self.losses)} steps of the self-supervised task alone, loss {loss:.3f}"

    @property
    def steps_taken(self) -> int:
        """Return the number of steps since the first weights, warm-up included."""
        warm_up = self.settings.ssl_warmup_steps if self.settings.ssl and self.epoch != WARM_UP else 0
        return int(warm_up + sum(row["steps"] for row in self.curve) + len(self.losses))

    def where(self) -> str:
        """Name the current pass and step."""
        return f"{'the warm-up' if self.epoch == WARM_UP else f'epoch {self.epoch}'}, step {len(self.losses)}"

    def _stalled(self) -> bool:
        return bool(self.best) and self.curve[-1]["epoch"] - self.best["epoch"] >= self.settings.patience

    def _put(self, weights: "dict[str, torch.Tensor]") -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(weights[name])

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Return by name every tensor that the remaining training depends on."""
        import torch

        from ssl_recall.training.state import state_tensors

        taken = [torch.stack([step.main, step.ssl, step.total]) for step in self.losses]
        return (
            state_tensors(self.model, self.steppers, self.average)
            | {f"best.{name}": weight for name, weight in self.weights.items()}
            | {LOSSES: torch.stack(taken) if taken else torch.zeros(0, 3)}
        )

    def totals(self) -> "torch.Tensor":
        """Return the joint losses of the pass so far; unlike `ssl`, they are finite in a sound training."""
        import torch

        return torch.stack([step.total for step in self.losses]) if self.losses else torch.zeros(0)

    def state(self) -> dict[str, Any]:
        """Return the rest of the state, in JSON types."""
        return {"epoch": self.epoch, "curve": self.curve, "best": self.best.get("epoch")}

    def restore(self, tensors: "dict[str, torch.Tensor]", state: dict[str, Any]) -> None:
        """Restore the training from `tensors` and `state`. Raises ValueError or KeyError if the model differs."""
        from ssl_recall.training.loop import StepLosses
        from ssl_recall.training.state import restore_state

        restore_state(tensors, self.model, self.steppers, self.average)
        self.epoch, self.curve = int(state["epoch"]), list(state["curve"])
        self.best = next((row for row in self.curve if row["epoch"] == state["best"]), {})
        start = "best."
        self.weights = {
            name.removeprefix(start): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        self.losses = [StepLosses(*row.unbind()) for row in tensors[LOSSES].to(self.device)]


def recall_line(row: dict[str, Any]) -> str:
    """Format an epoch's validation recall, for the slices that have a pair."""
    shown = [name for name in SHOWN if not math.isnan(row[name])]
    recalls = ", ".join(f"{row[name]:.3f} {name.removeprefix('recall_')}" for name in shown)
    return f"validation recall@{K} {recalls}"
