"""Training in memory: artifacts into tensors, epochs until the validation stops improving."""

import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from . import console, models, processor, reader
from .errors import InputError, NumberError, SettingsError

if TYPE_CHECKING:
    import torch

    from ssl_recall.steps import Objective, TrainingData
    from ssl_recall.towers import TwoTower
    from ssl_recall.training import StepLosses
    from ssl_recall.validation import HeldOut
    from ssl_recall.views import Packed

    from .checkpoints import Keeper

VIEWS = "views.parquet"
K = 50  # of the validation recall
SHOWN = ("recall_all", "recall_tail", "recall_cold", "recall_balanced")
LOSSES = "losses"  # of a pass, among the tensors of a training
WARM_UP = -1  # the pass before epoch 0


class SeedPer(StrEnum):
    """Who shares a seed feature in the correlated transform."""

    BATCH = "batch"
    ITEM = "item"


class SelectOn(StrEnum):
    """The slice whose validation recall picks the epoch; balanced is the mean of head and tail."""

    BALANCED = "balanced"
    ALL = "all"
    TAIL = "tail"
    COLD = "cold"


def fitted(
    job: reader.Reader,
    settings: dict[str, Any],
    place: "torch.device",
    title: str = "",
    masks: "Packed | None" = None,
    keeper: "Keeper | None" = None,
) -> "Fit":
    """Train a model in memory, to the end.

    Takes the views given, or else those of the run folder, and goes on from what a keeper kept.
    """
    data, held_out = load(job, settings, masks)
    model = models.build(data.items, data.queries, job.read("features.parquet"), settings)
    fit = Fit(model, data, held_out, settings, place)
    if keeper is not None:
        keeper.begin(fit)
    fit.run(title, keeper)
    return fit


def load(
    job: reader.Reader, settings: dict[str, Any], masks: "Packed | None" = None
) -> tuple["TrainingData", "HeldOut"]:
    """Turn the artifacts into tensors."""
    import torch

    from ssl_recall import batches, losses, metrics, steps, validation, views

    items, queries = models.tables(job)
    if settings["history"] and not job.has_column("train.parquet", "timestamp"):
        raise SettingsError("--history needs to know what came before: prepare with --timestamp", "NO_TIME")
    if settings["history"]:
        log = models.log_of(job.read("train.parquet", ["query_index", "item_index", "timestamp"]), queries.rows)
    else:
        log = models.log_from(job, "train.parquet", queries.rows)
    if len(log.items) < 2:
        raise InputError(f"train.parquet: {len(log.items)} interactions, two are the least to learn from", "TOO_FEW")
    popularity = job.read("popularity.parquet")
    log_p = popularity["log_p"].to_torch().float()
    if settings["ssl"] and masks is None:
        stored = job.parts(VIEWS, ["variant", "keep_a", "keep_b", "neighbour_index"], 2**20)
        variants = job.rows(VIEWS) // max(items.rows, 1)
        masks = views.packed(stored, items.offsets, len(items.names), variants)
    held_out = models.log_from(job, "validation.parquet", queries.rows)
    if not len(held_out.items):
        raise InputError("validation.parquet: empty, nothing to pick the epoch by; raise --validation-share", "TOO_FEW")
    counts = popularity["count"].to_torch()
    slices = metrics.slices(counts)
    drawn = batches.generator(settings["seed"], batches.VALIDATION)
    sample = validation.sample(held_out.queries, held_out.items, slices, settings["validation_queries"], drawn)
    select = str(settings["select_on"])
    if select in sample.slices and not sample.slices[select].any():
        raise InputError(
            f"validation.parquet: no {select} item to pick the epoch by; take another --select-on", "TOO_FEW"
        )
    pool = batches.negative_pool(counts, settings["cold_negative_rate"])
    batch, extra = min(settings["batch_size"], len(log.items)), settings["further_negatives"]
    log_q = losses.mixture(log_p, pool.probabilities(len(counts)), batch, extra)
    corrected = log_q if settings["logq"] else torch.zeros_like(log_q)
    return steps.TrainingData(items, queries, log, corrected, pool, masks), sample


class Fit:
    """A training on its way: a model, what moves it, and where it stands. `tensors` and `state` are all of it.

    At the end `model` has the weights of the epoch `best`, a row of `curve`.
    """

    def __init__(
        self,
        model: "TwoTower",
        data: "TrainingData",
        held_out: "HeldOut",
        settings: dict[str, Any],
        device: "torch.device",
    ) -> None:
        """Stand before the first step."""
        from ssl_recall import optimisers, steps, training

        self.model, self.data, self.settings, self.device = model.to(device), data, settings, device
        self.held_out = held_out.to(device)
        self.catalogue, self.asked, self.log = data.items.to(device), data.queries.to(device), data.log.to(device)
        self.steppers = training.optimisers(
            model, settings["learning_rate"], settings["embedding_learning_rate"], settings["initial_accumulator"]
        )
        self.average = optimisers.RunningAverage(training.dense_weights(model), settings["average_decay"])
        self.planner = steps.Planner(data, objective_of(settings), model, settings["seed"])
        self.epoch = WARM_UP  # the pass that it is in
        self.losses: list[StepLosses] = []  # of the steps of it that are taken
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.weights: dict[str, torch.Tensor] = {}  # of the best epoch

    def run(self, title: str, keeper: "Keeper | None" = None) -> None:
        """Train until the validation stops improving, and put the best epoch's weights in place.

        Without a title it says nothing. Raises NumberError when a loss is no finite number.
        """
        from ssl_recall.losses import NonFiniteError

        with console.progress(title, self.settings["epochs"] * len(self.log.items)) as advance:
            advance(self.settings["batch_size"] * sum(row["steps"] for row in self.curve))
            while self.epoch < self.settings["epochs"] and not self._stalled():
                try:
                    self._pass(advance, keeper)
                except NonFiniteError as error:
                    raise NumberError(f"{error}; lower --learning-rate or raise --temperature", "NON_FINITE") from None
                if title and self.losses:
                    console.line(f"{title:<26} {self._said()}")
                self.epoch, self.losses = self.epoch + 1, []
        self._put(self.weights)

    def _pass(self, advance: Callable[[int], None], keeper: "Keeper | None") -> None:
        """Take what is left of the pass, and look at what it brought. Raises NonFiniteError."""
        from ssl_recall.losses import NonFiniteError

        for step in self._steps():
            self.losses.append(step)
            advance(self.settings["batch_size"] if self.epoch != WARM_UP else 0)
            if keeper is not None:
                keeper.after_step(self)
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise NonFiniteError(f"epoch {self.epoch}, step {len(self.losses) - 1}: a weight is not finite after it")
        if self.epoch != WARM_UP:
            self._look()

    def _steps(self) -> "Iterator[StepLosses]":
        """Take what is left of the pass."""
        from ssl_recall import training

        planners = processor.planners(self.settings["threads"], self.device)
        common = (self.model, self.steppers, self.planner)
        first = len(self.losses)
        if self.epoch == WARM_UP:
            return training.warm_up(*common, self.average, first=first, planners=planners)
        return training.train_epoch(*common, self.epoch, self.average, first=first, planners=planners)

    def _look(self) -> None:
        """Measure the validation recall of the running average, and keep the weights where it is the best so far."""
        from ssl_recall import training, validation

        select = str(self.settings["select_on"])
        figure = "recall" if select == SelectOn.ALL else f"recall_{select}"
        with self.average.applied():
            history = self.settings["history"]
            recall = validation.recall(self.model, self.catalogue, self.asked, self.log, self.held_out, history, K)
            losses = training.mean_losses(self.losses)
            self.curve.append({"epoch": self.epoch, "steps": len(self.losses), **losses, **recall})
            if not self.best or recall[figure] > self.best[figure]:
                self.best = self.curve[-1]
                self.weights = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    def _said(self) -> str:
        """Say how the pass went that has just ended."""
        from ssl_recall import training

        if self.epoch != WARM_UP:
            return f"epoch {self.epoch}: {said(self.curve[-1])}"
        loss = training.mean_losses(self.losses)["ssl"]
        return f"warm-up: {len(self.losses)} steps of the self-supervised task alone, its loss {loss:.3f}"

    @property
    def steps_taken(self) -> int:
        """Count the steps since the first weights, those of the warm-up too."""
        warm_up = self.settings.get("ssl_warmup_steps", 0) if self.epoch != WARM_UP else 0
        return int(warm_up + sum(row["steps"] for row in self.curve) + len(self.losses))

    def where(self) -> str:
        """Say where it stands."""
        return f"{'the warm-up' if self.epoch == WARM_UP else f'epoch {self.epoch}'}, step {len(self.losses)}"

    def _stalled(self) -> bool:
        return bool(self.best) and self.curve[-1]["epoch"] - self.best["epoch"] >= self.settings["patience"]

    def _put(self, weights: "dict[str, torch.Tensor]") -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(weights[name])

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Name every tensor that the next step depends on, and what the end does."""
        import torch

        from ssl_recall import state

        taken = [torch.stack([step.main, step.ssl, step.total]) for step in self.losses]
        return (
            state.collected(self.model, self.steppers, self.average)
            | {f"best.{name}": weight for name, weight in self.weights.items()}
            | {LOSSES: torch.stack(taken) if taken else torch.zeros(0, 3)}
        )

    def totals(self) -> "torch.Tensor":
        """Give the joint losses of the pass so far: finite where all is well, unlike the self-supervised ones."""
        import torch

        return torch.stack([step.total for step in self.losses]) if self.losses else torch.zeros(0)

    def state(self) -> dict[str, Any]:
        """Give the rest of it, as JSON holds it."""
        return {"epoch": self.epoch, "curve": self.curve, "best": self.best.get("epoch")}

    def restore(self, tensors: "dict[str, torch.Tensor]", state: dict[str, Any]) -> None:
        """Stand where `tensors` and `state` were taken. Raises ValueError or KeyError for another model's."""
        from ssl_recall import state as whole
        from ssl_recall.training import StepLosses

        whole.restore(tensors, self.model, self.steppers, self.average)
        self.epoch, self.curve = int(state["epoch"]), list(state["curve"])
        self.best = next((row for row in self.curve if row["epoch"] == state["best"]), {})
        start = "best."
        self.weights = {
            name.removeprefix(start): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        self.losses = [StepLosses(*row.unbind()) for row in tensors[LOSSES].to(self.device)]


def objective_of(settings: dict[str, Any]) -> "Objective":
    """Give the settings that a step is planned and taken by."""
    from ssl_recall.steps import Objective, SelfSupervision

    ssl = None
    if settings["ssl"]:
        ssl = SelfSupervision(
            weight=settings["ssl_weight"],
            batch_size=settings["ssl_batch_size"],
            temperature=settings["ssl_temperature"],
            shared_seed=settings["ssl_seed_per"] == SeedPer.BATCH,
            neighbour_weight=settings["ssl_neighbour_weight"],
            warm_up=settings["ssl_warmup_steps"],
            every=settings["ssl_every"],
        )
    names = ("batch_size", "temperature", "further_negatives", "id_dropout", "feature_dropout", "history", "bf16")
    return Objective(**{name: settings[name] for name in names}, ssl=ssl)


def said(row: dict[str, Any]) -> str:
    """Say an epoch's validation recall, of the slices that have a pair."""
    shown = [name for name in SHOWN if not math.isnan(row[name])]
    recalls = ", ".join(f"{row[name]:.3f} {name.removeprefix('recall_')}" for name in shown)
    return f"validation recall@{K} {recalls}"
