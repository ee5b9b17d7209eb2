"""Train the two towers, with or without the self-supervised task on the item tower."""

import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import artifacts, console, contract, guesses, models, processor
from .errors import InputError, NumberError, SettingsError

if TYPE_CHECKING:
    import polars as pl
    import torch

    from ssl_recall.steps import Objective, TrainingData
    from ssl_recall.towers import TwoTower
    from ssl_recall.training import StepLosses
    from ssl_recall.validation import HeldOut
    from ssl_recall.views import Packed

READS = (
    "features.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
    "popularity.parquet",
)
VIEWS = "views.parquet"
WRITES = ("model/weights.safetensors", "model/model.json", "training.parquet")
K = 50  # of the validation recall
SHOWN = ("recall_all", "recall_tail", "recall_cold")
FEW = 500  # steps in all under which a model has hardly left its first weights
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


def train(
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    ssl: Annotated[bool, typer.Option(help="Train the self-supervised task too; --no-ssl goes to RUN/no-ssl/.")] = True,
    ssl_weight: Annotated[float, typer.Option(min=0.0, max=1000.0, help="alpha in L = L_main + alpha L_self.")] = 0.1,
    ssl_batch_size: Annotated[int, typer.Option(min=2, help="Items drawn uniformly a step.")] = 512,
    ssl_temperature: Annotated[
        float, typer.Option(min=0.001, max=100.0, help="Temperature of the self-supervised softmax.")
    ] = 0.1,
    ssl_seed_per: Annotated[
        SeedPer, typer.Option(help="One variant of views a batch, as in the paper, or an item.")
    ] = SeedPer.BATCH,
    ssl_warmup_steps: Annotated[
        int, typer.Option(min=0, help="Steps of the self-supervised task alone before the first epoch.")
    ] = 400,
    ssl_neighbour_weight: Annotated[
        float,
        typer.Option(
            min=0.0, max=1000.0, help="Of the loss between an item and its neighbour, beside that between views."
        ),
    ] = 1.0,
    temperature: Annotated[
        float, typer.Option(min=0.001, max=100.0, help="Temperature of the in-batch softmax.")
    ] = 0.05,
    logq: Annotated[bool, typer.Option(help="Take log p off the logits.")] = True,
    batch_size: Annotated[int, typer.Option(min=2, help="Interactions a step; their items are its negatives.")] = 1024,
    further_negatives: Annotated[
        int, typer.Option(min=0, max=2**24, help="Items drawn uniformly a step as negatives beside the batch's own.")
    ] = 1024,
    cold_negative_rate: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="How often such an item is one without training interactions, 1: as any other."
        ),
    ] = 0.002,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the log, at most.")] = 12,
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many epochs without a better validation.")] = 3,
    select_on: Annotated[
        SelectOn, typer.Option(help="The validation figure that picks the epoch; balanced: mean of head and tail.")
    ] = SelectOn.BALANCED,
    validation_queries: Annotated[int, typer.Option(min=1, help="Look at this many queries after each epoch.")] = 5000,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1000.0, help="AdamW, on the perceptrons.")] = 0.001,
    embedding_learning_rate: Annotated[
        float, typer.Option(min=1e-6, max=1000.0, help="Row-wise Adagrad, on the embeddings.")
    ] = 0.1,
    initial_accumulator: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the row-wise Adagrad: rows with small gradients move little.")
    ] = 1e-5,
    average_decay: Annotated[
        float,
        typer.Option(min=0.0, max=0.9999, help="Of the running average of the perceptrons' weights that is kept."),
    ] = 0.99,
    embedding_width: Annotated[int, typer.Option(min=1, help="Width of every feature's embedding.")] = 32,
    hidden: Annotated[
        list[int] | None, typer.Option(min=1, help="Width of a hidden layer; repeatable. [default: 256]")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Width of the vectors that are compared and exported.")] = 64,
    id_dropout: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of ids hidden in the main task.")] = 0.1,
    feature_dropout: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the candidates' features hidden in the main task.")
    ] = 0.0,
    history: Annotated[int, typer.Option(min=0, help="Describe a query by the last n items it took, too.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="First weights and all draws.")] = 1,
    precision: Annotated[
        processor.Precision,
        typer.Option(help="Of the towers' products; auto: bfloat16 where it is clearly faster here."),
    ] = processor.Precision.AUTO,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Processor threads; another number changes the last digits.")
    ] = 1,
    force: artifacts.ForceOption = False,
) -> None:
    """Train query and item towers: in-batch softmax with logQ, plus the self-supervised task on the item tower.

    Reads features, items, queries, train, validation, popularity and (with SSL) views; writes model/ (safetensors and
    JSON) and training.parquet (the curve). The epoch with the best validation recall is kept. --no-ssl trains the same
    model without the self-supervised task, for comparison, into the sub-folder no-ssl/.
    """
    settings = used(locals())
    folder = "" if ssl else contract.NO_SSL
    reads = (*READS, VIEWS) if ssl else READS
    writes = tuple(folder + name for name in WRITES)
    stage = "train" if ssl else "train --no-ssl"
    with artifacts.Job(run, stage, settings, reads=reads, writes=writes, force=force) as job:
        if job.up_to_date:
            return
        place = models.device_of(device)
        processor.use(threads, place)
        bf16 = processor.takes_bf16(precision, place)
        warn_of_few_steps(job.rows("train.parquet"), settings)
        model, _, curve, best = fitted(job, settings | {"bf16": bf16}, place, stage)
        rows = _curve(curve, best)
        models.save(job, folder, model, settings, rows.filter(rows["best"]).drop("best").row(0, named=True))
        job.write(f"{folder}training.parquet", rows)
        job.done(f"{len(curve)} epochs{' in bf16' if bf16 else ''}, best {best['epoch']}: {said(best)}")


def used(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep what a model is trained with: what the one without SSL does not use cannot make it stale."""
    settings = settings | {"hidden": list(settings["hidden"] or [256])}
    return {name: value for name, value in settings.items() if settings["ssl"] or not name.startswith("ssl_")}


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


def warn_of_few_steps(rows: int, settings: dict[str, Any]) -> None:
    """Say when a small log leaves so few steps that nothing can be learned, and what would leave more."""
    steps = max(rows // settings["batch_size"], 1)
    if steps * settings["epochs"] >= FEW:
        return
    size = min(guesses.batch_size(rows), settings["batch_size"])
    epochs = max(settings["epochs"], -(-2 * FEW // max(rows // size, 1)))
    console.warn(
        f"{rows:,} interactions are {steps} steps an epoch at --batch-size {settings['batch_size']}, "
        f"{steps * settings['epochs']} in all: too few to learn from; try --batch-size {size} "
        f"--epochs {epochs} --patience {max(settings['patience'], epochs // 4)}"
    )


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
    """Say an epoch's validation recall, of the slices that have a pair."""
    shown = [name for name in SHOWN if not math.isnan(row[name])]
    recalls = ", ".join(f"{row[name]:.3f} {name.removeprefix('recall_')}" for name in shown)
    return f"validation recall@{K} {recalls}"


def _curve(curve: list[dict[str, Any]], best: dict[str, Any]) -> "pl.DataFrame":
    """Lay the curve out as training.parquet."""
    import polars as pl

    frame = pl.DataFrame(curve).select(
        pl.col("epoch").cast(pl.Int32),
        pl.col("steps").cum_sum(),
        main_loss="main",
        ssl_loss="ssl",
        loss="total",
        **{
            f"{name}_at_{K}": name
            for name in ("recall", "recall_head", "recall_tail", "recall_cold", "recall_balanced")
        },
    )
    return frame.with_columns(best=pl.col("epoch") == best["epoch"])
