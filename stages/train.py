"""Train the two towers, with or without the self-supervised task on the item tower."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import artifacts, checkpoints, console, contract, fitting, guesses, models, options, planning, processor, signals
from . import config as config_file
from .errors import NumberError, Stopped
from .fitting import K, SeedPer, SelectOn

if TYPE_CHECKING:
    import polars as pl

READS = (
    "features.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
    "popularity.parquet",
)
WRITES = ("model/weights.safetensors", "model/model.json", "training.parquet")
FEW = 500  # steps in all under which a model has hardly left its first weights


def train(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    ssl: Annotated[bool, typer.Option(help="Train the self-supervised task too; --no-ssl goes to RUN/no-ssl/.")] = True,
    ssl_weight: Annotated[
        float, typer.Option(min=0.0, max=1000.0, help="alpha in L = L_main + alpha L_self, on average over the steps.")
    ] = 0.1,
    ssl_batch_size: Annotated[
        int, typer.Option(min=2, help="Items drawn uniformly, in a step that has the task.")
    ] = 1024,
    ssl_temperature: Annotated[
        float, typer.Option(min=0.001, max=100.0, help="Temperature of the self-supervised softmax.")
    ] = 0.1,
    ssl_seed_per: Annotated[
        SeedPer, typer.Option(help="One variant of views a batch, as in the paper, or an item.")
    ] = SeedPer.BATCH,
    ssl_warmup_steps: Annotated[
        int, typer.Option(min=0, help="Steps of the self-supervised task alone before the first epoch.")
    ] = 400,
    ssl_every: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Every n-th step has the self-supervised task, there with n times its weight; 1: every step.",
        ),
    ] = 8,
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
        typer.Option(help="Of the matrix products; auto: bfloat16 where it is clearly faster here."),
    ] = processor.Precision.AUTO,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Processor threads; another number changes the last digits.")
    ] = 1,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0.0, help="Save the training this often, to go on from; 0: after every step.")
    ] = 300.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to go on where the end would not be bit-exact to an unstopped one.")
    ] = False,
    force: options.ForceOption = False,
) -> None:
    """Train query and item towers: in-batch softmax with logQ, plus the self-supervised task on the item tower.

    Reads features, items, queries, train, validation, popularity and (with SSL) views; writes model/ (safetensors and
    JSON) and training.parquet (the curve). The epoch with the best validation recall is kept. --no-ssl trains the same
    model without the self-supervised task, for comparison, into the sub-folder no-ssl/. Stopped or killed, it goes on
    from its last checkpoint; --force begins anew.
    """
    settings = used(locals())
    folder = "" if ssl else contract.NO_SSL
    reads = (*READS, "views.parquet") if ssl else READS
    writes = tuple(folder + name for name in WRITES)
    stage = contract.TRAININGS[folder]
    with artifacts.Job(run, stage, settings, reads=reads, writes=writes, force=force) as job:
        if planning.is_planning():
            return
        with signals.noted() as asked:
            keeper = checkpoints.Keeper(job, folder, checkpoint_seconds, asked, strict=strict)
            if job.up_to_date:
                keeper.tidy()
                return
            if force:
                keeper.clear()
            place = models.device_of(device)
            processor.use(threads, place)
            found = keeper.find()
            bf16 = found.bf16 if found else processor.takes_bf16(precision, place)
            warn_of_few_steps(job.rows("train.parquet"), settings)
            try:
                fit = fitting.fitted(job, settings | {"bf16": bf16}, place, stage, keeper=keeper)
            except NumberError as error:
                raise NumberError(f"{error.message}; {keeper.last()}", error.rule) from None
            except (KeyboardInterrupt, signals.Terminated) as error:
                text = f"stopped at once; {keeper.last()}; to go on run: {keeper.resume}"
                raise Stopped(text, signals.number_of(error)) from None
        rows = _curve(fit.curve, fit.best)
        models.save(job, folder, fit.model, settings, rows.filter(rows["best"]).drop("best").row(0, named=True))
        job.write(f"{folder}training.parquet", rows)
        said = f"best {fit.best['epoch']}: {fitting.said(fit.best)}"
        job.done(f"{len(fit.curve)} epochs{' in bf16' if bf16 else ''}, {said}", then=keeper.clear)
    if asked.number:  # after the last step: what was under way is done, and what would come next is not begun
        raise Stopped(f"stopped; {stage} is done and published", asked.number)


def used(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep what a model is trained with: what the one without SSL does not use cannot make it stale."""
    settings = settings | {"hidden": list(settings["hidden"] or [256])}
    return {name: value for name, value in settings.items() if settings["ssl"] or not name.startswith("ssl_")}


def warn_of_few_steps(rows: int, settings: dict[str, Any]) -> None:
    """Say when a small log leaves so few steps that nothing can be learned, and what would leave more."""
    steps = max(rows // settings["batch_size"], 1)
    if settings["ssl"] and settings["ssl_every"] > steps:
        console.warn(
            f"the self-supervised task comes in every {settings['ssl_every']} steps and an epoch has {steps}, "
            f"so that some have none; try --ssl-every {steps}"
        )
    if steps * settings["epochs"] >= FEW:
        return
    size = min(guesses.batch_size(rows), settings["batch_size"])
    epochs = max(settings["epochs"], -(-2 * FEW // max(rows // size, 1)))
    better = {"batch_size": size, "epochs": epochs, "patience": max(settings["patience"], epochs // 4)}
    changed = {name: value for name, value in better.items() if value != settings[name]}
    flags = [part for name, value in changed.items() for part in config_file.flags(name, value)]
    console.warn(
        f"{rows:,} interactions are {steps} step{'s' * (steps > 1)} an epoch at --batch-size {settings['batch_size']}, "
        f"{steps * settings['epochs']} in all: too few to learn from; "
        f"try train {' '.join(flags)}, or the same under [train] of the settings file"
    )


def _curve(curve: list[dict[str, Any]], best: dict[str, Any]) -> "pl.DataFrame":
    """Lay the curve out as training.parquet."""
    import polars as pl

    frame = pl.DataFrame(curve).select(
        pl.col("epoch").cast(pl.Int32),
        pl.col("steps").cum_sum(),
        main_loss="main",
        ssl_loss=pl.col("ssl").fill_nan(None),
        loss="total",
        **{
            f"{name}_at_{K}": name
            for name in ("recall", "recall_head", "recall_tail", "recall_cold", "recall_balanced")
        },
    )
    return frame.with_columns(best=pl.col("epoch") == best["epoch"])
