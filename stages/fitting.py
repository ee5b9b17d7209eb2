"""Training in memory: artifacts into tensors, epochs until the validation stops improving."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from . import artifacts, console, models, processor
from .errors import InputError, NumberError, SettingsError

if TYPE_CHECKING:
    import torch

    from ssl_recall.steps import Objective, TrainingData
    from ssl_recall.towers import TwoTower
    from ssl_recall.training import StepLosses
    from ssl_recall.validation import HeldOut
    from ssl_recall.views import Packed

VIEWS = "views.parquet"
K = 50  # of the validation recall
SHOWN = ("recall_all", "recall_tail", "recall_cold")
VALIDATION = -1  # in the place of an epoch: the stream that draws the validation queries


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
    job: artifacts.Job, settings: dict[str, Any], place: "torch.device", title: str, masks: "Packed | None" = None
) -> tuple["TwoTower", "TrainingData", list[dict[str, Any]], dict[str, Any]]:
    """Train a model in memory: it, with its best weights, what it learned from, the curve and its best epoch.

    Takes the views given, or else those of the run folder. Without a title it says nothing.
    """
    data, held_out = load(job, settings, masks)
    model = models.build(data.items, data.queries, job.read("features.parquet"), settings)
    return model, data, *_fit(model, data, held_out, settings, place, title)


def load(
    job: artifacts.Job, settings: dict[str, Any], masks: "Packed | None" = None
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
    drawn = batches.generator(settings["seed"], VALIDATION)
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


def _fit(
    model: "TwoTower",
    data: "TrainingData",
    held_out: "HeldOut",
    settings: dict[str, Any],
    device: "torch.device",
    title: str,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train until the validation stops improving; give the curve, a row an epoch, and its best, whose weights stay."""
    from ssl_recall import optimisers, steps, training, validation

    model.to(device)
    held_out = held_out.to(device)
    catalogue, asked, log = data.items.to(device), data.queries.to(device), data.log.to(device)
    steppers = training.optimisers(
        model, settings["learning_rate"], settings["embedding_learning_rate"], settings["initial_accumulator"]
    )
    average = optimisers.RunningAverage(training.dense_weights(model), settings["average_decay"])
    objective = objective_of(settings)
    planner = steps.Planner(data, objective, model, settings["seed"])
    spare = processor.has_a_core_to_spare(settings["threads"], device)
    figure = "recall" if settings["select_on"] == SelectOn.ALL else f"recall_{settings['select_on']}"
    curve: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    weights: dict[str, torch.Tensor] = {}
    with console.progress(title, settings["epochs"] * len(data.log.items)) as advance:
        _taken(training.warm_up(model, steppers, planner, average, plan_ahead=spare))
        for epoch in range(settings["epochs"]):
            taking = training.train_epoch(model, steppers, planner, epoch, average, plan_ahead=spare)
            found = _taken(taking, lambda: advance(objective.batch_size))
            with average.applied():
                recall = validation.recall(model, catalogue, asked, log, held_out, objective.history, K)
                curve.append({"epoch": epoch, "steps": len(found), **training.mean_losses(found), **recall})
                if title:
                    console.line(f"{title:<26} epoch {epoch}: {said(curve[-1])}")
                better = not best or curve[-1][figure] > best[figure]
                if better:
                    best = curve[-1]
                    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
            if not better and epoch - best["epoch"] >= settings["patience"]:
                break
    model.load_state_dict(weights)
    return curve, best


def _taken(taking: "Iterator[StepLosses]", advance: Callable[[], None] = lambda: None) -> "list[StepLosses]":
    """Take steps to their end. Raises NumberError when a loss is no finite number."""
    from ssl_recall.losses import NonFiniteError

    found = []
    try:
        for step in taking:
            found.append(step)
            advance()
    except NonFiniteError as error:
        raise NumberError(f"{error}; lower --learning-rate or raise --temperature", "NON_FINITE") from None
    return found


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
        )
    names = ("batch_size", "temperature", "further_negatives", "id_dropout", "feature_dropout", "history", "bf16")
    return Objective(**{name: settings[name] for name in names}, ssl=ssl)


def said(row: dict[str, Any]) -> str:
    """Say an epoch's validation recall."""
    recalls = ", ".join(f"{row[name]:.3f} {name.removeprefix('recall_')}" for name in SHOWN)
    return f"validation recall@{K} {recalls}"
