"""Train the two towers, with or without the self-supervised task on the item tower."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from stages.learning import checkpoints, hardware, memory_needs, model_files, recency
from stages.learning.fit import K, new_fit, recall_line
from stages.learning.settings import TrainSettings, recorded_training
from stages.learning.short_logs import warn_of_few_steps
from stages.learning.training_inputs import TRAINING_READS
from stages.run_folder import dry_run, layout
from stages.run_folder.memory_floor import Need
from stages.terminal import signals
from stages.terminal.errors import NumberError, Stopped

from .options import StageFolder

if TYPE_CHECKING:
    import polars as pl

WRITES = (layout.WEIGHTS, layout.MODEL, layout.TRAINING)


def train(folder: StageFolder, settings: TrainSettings) -> None:
    """Train the query and item towers: in-batch softmax with logQ, and the self-supervised task on the item tower.

    Reads features, items, queries, train, validation, popularity and, with SSL, views. Writes model/ (safetensors and
    JSON) and training.parquet (the curve). The model is that of the epoch with the best validation recall. --no-ssl
    trains the same model without the self-supervised task, for comparison, into the sub-folder no-ssl/. A stopped or
    killed training resumes from its last checkpoint; --force restarts it.
    """
    part = "" if settings.ssl else layout.NO_SSL
    job = folder.job(
        layout.TRAININGS[part],
        recorded_training(settings),
        reads=(*TRAINING_READS, layout.VIEWS) if settings.ssl else TRAINING_READS,
        writes=tuple(part + name for name in WRITES),
        need=Need(partial(memory_needs.of_training, embedding_width=settings.embedding_width), torch=True),
    )
    with job:
        if dry_run.is_planning():
            return
        with signals.noted() as asked:
            keeper = checkpoints.Keeper(job, part, settings.checkpoint_seconds, asked, strict=settings.strict)
            if job.up_to_date:
                keeper.tidy()
                return
            if folder.force:
                keeper.clear()
            place = hardware.device_of(settings.device)
            hardware.use(settings.threads, place)
            found = keeper.find()
            bf16 = found.bf16 if found else hardware.takes_bf16(settings.precision, place)
            warn_of_few_steps(recency.rows_per_epoch(job), settings)
            try:
                fit = new_fit(job, settings, place, bf16=bf16)
                keeper.begin(fit)
                resumed_at, start = fit.steps_taken, time.monotonic()
                fit.run(job.stage, keeper.after_step)
            except NumberError as error:
                raise NumberError(f"{error.message}; {keeper.last()}", error.rule) from None
            except (KeyboardInterrupt, signals.Terminated) as error:
                text = f"stopped at once; {keeper.last()}; to go on run: {keeper.resume}"
                raise Stopped(text, signals.number_of(error)) from None
        minutes = _minutes(time.monotonic() - start, fit.steps_taken, resumed_at)
        rows = _curve(fit.curve, fit.best)
        best = rows.filter(rows["best"]).drop("best").row(0, named=True)
        model_files.save(job, part, fit.model, settings.shape, best)
        job.write(f"{part}{layout.TRAINING}", rows)
        said = f"best epoch {fit.best['epoch']}: {recall_line(fit.best)}"
        job.done(f"{len(fit.curve)} epochs{' in bf16' if bf16 else ''}, {said}", keeper.clear, minutes)
    if asked.number:  # a signal after the last step: this training is published, and the next stage does not start
        raise Stopped(f"stopped; {job.stage} is done and published", asked.number)


def _minutes(seconds: float, steps: int, resumed_at: int) -> int | None:
    """Return the whole minutes that all steps take, from those since the resume; None if there is no step."""
    return int(seconds * steps / (steps - resumed_at) // 60) if steps > resumed_at else None


def _curve(curve: list[dict[str, Any]], best: dict[str, Any]) -> "pl.DataFrame":
    """Return the curve as training.parquet."""
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
