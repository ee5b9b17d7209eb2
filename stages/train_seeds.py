"""Train the published models again with other seeds, and keep the ranks of the test pairs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.learning import arm_ranks, memory_needs
from stages.learning.arm import READS as OF_ARMS
from stages.learning.arm import Arm, with_precision
from stages.learning.held_out import Targets, truth_of
from stages.learning.settings import TrainSettings
from stages.learning.view_settings import ViewSettings
from stages.run_folder import dry_run, layout, manifest, reader
from stages.run_folder.job import Job
from stages.run_folder.memory_floor import Need
from stages.terminal import console, worker_pool
from stages.terminal.errors import ArtifactError

from .options import StageFolder, from_record, no_result

if TYPE_CHECKING:
    import polars as pl

RANKED = (*OF_ARMS, layout.TEST)  # what ranks depend on
READS = (*RANKED, layout.MODEL)
OPTIONAL = (layout.NO_SSL_MODEL,)
WRITES = (layout.SEEDS,)
BY_DEFAULT = 3  # trainings of each model, if one takes less than a minute


@dataclass(frozen=True)
class SeedsSettings:
    """Every flag of `train-seeds` but the run folder's."""

    seeds: Annotated[
        int | None,
        Option(
            min=1,
            max=1000,
            help="Trainings of each model, the published one included. [default: 3 if one takes less than a minute, "
            "else 1]",
            show_default=False,
        ),
    ] = None
    depth: Annotated[
        int,
        Option(min=arm_ranks.DEPTH, max=100_000, help="Largest rank to keep: at least the largest --k of evaluate."),
    ] = arm_ranks.DEPTH
    targets: Annotated[Targets, Option(help="Targets of a list, as in evaluate; `run` takes them from there.")] = (
        Targets.ALL
    )
    jobs: worker_pool.JobsOption = no_result(1)


def train_seeds(folder: StageFolder, settings: SeedsSettings) -> None:
    """Train the model with SSL and the one without with other seeds, and rank the catalogue for every test query.

    Reads features, items, queries, train, validation, test, popularity, mutual_information, model/ and, if it exists,
    no-ssl/model/. Writes seeds.parquet: the rank of each test pair, by model and seed. evaluate averages them. The
    settings are those of the published models, except for the seed of first weights, batches and views. No choice
    depends on test pairs. RUN/seeds/ keeps the ranks of every training: a stopped command resumes there.
    """
    number, reason = _seeds_of(folder, settings)
    job = folder.job(
        "train-seeds",
        {"seeds": number, "depth": settings.depth, "targets": settings.targets},
        reads=READS,
        optional=OPTIONAL,
        writes=WRITES,
        need=Need(_memory, torch=True) if number > 1 else None,
    )
    with job:
        if dry_run.is_planning() or job.up_to_date:
            return
        if reason:
            console.line(f"{job.stage:<26} {reason}; to choose run: ssl-recall run --seeds N{job.flags}")
        job.write(layout.SEEDS, _ranks(job, folder, settings, number))


def _seeds_of(folder: StageFolder, settings: SeedsSettings) -> tuple[int, str]:
    """Return the number of trainings of each model, and why, unless the user chose it."""
    if settings.seeds is not None:
        return settings.seeds, ""
    try:
        stages = manifest.read(folder.run)["stages"]
    except ArtifactError:  # the job refuses it
        stages = {}
    minutes = [stages[name].get("minutes") for name in layout.TRAININGS.values() if name in stages]
    if None in minutes or not minutes:
        return 1, "1 seed, because the time of a training is not recorded"
    if max(minutes):
        return 1, f"1 seed, because a training takes {max(minutes):,} min"
    return BY_DEFAULT, f"{BY_DEFAULT} seeds, because a training takes less than a minute"


def _ranks(job: Job, folder: StageFolder, settings: SeedsSettings, number: int) -> "pl.DataFrame":
    """Train and rank every model with every seed but the published one."""
    import polars as pl

    schema = {"model": pl.String, "seed": pl.Int64} | dict.fromkeys(
        ("query_index", "item_index", "rank", "depth"), pl.Int32
    )
    schema |= {"targets": pl.String}
    if number == 1:
        job.done("1 seed, the published one")
        return pl.DataFrame(schema=schema)
    truth, models = truth_of(job, settings.targets), with_precision(_published(job))
    place = job.run / layout.SEEDS_FOLDER
    seeds = list(islice(_other_seeds(models["ssl"].train.seed), number - 1))
    kept = (settings.depth, layout.SEEDS_FOLDER, settings.targets)
    cells = {
        (name, seed): arm_ranks.cell(job, RANKED, folder.config, arm, seed, *kept)
        for seed in sorted({*seeds, *arm_ranks.seeds_of(place)})
        for name, arm in models.items()
    }
    asked = {key: cell for key, cell in cells.items() if key[1] in seeds}
    pairs = len(truth.pair_items)
    arm_ranks.measure_all(job.stage, list(asked.values()), pairs, settings.jobs, force=folder.force)
    frames = [
        arm_ranks.frame_of(truth, arm_ranks.measured(cell, pairs)).select(
            pl.lit(name).alias("model"),
            pl.lit(seed, pl.Int64).alias("seed"),
            pl.all(),
            depth=pl.lit(settings.depth, pl.Int32),
            targets=pl.lit(str(settings.targets)),
        )
        for (name, seed), cell in asked.items()
    ]
    arm_ranks.sweep(place, cells.values())
    job.done(f"{number} seeds of {' and '.join(models)}, {pairs:,} test pairs")
    return pl.concat(frames)


def _published(job: reader.Reader) -> dict[str, Arm]:
    """Return the models of the run folder with the settings that the manifest recorded: name -> arm."""
    stages = job.manifest["stages"]
    views = from_record(ViewSettings, stages["build-views"]["settings"])
    parts = {"ssl": "", "no-ssl": layout.NO_SSL}
    found = {}
    for name, part in parts.items():
        if job.has(part + layout.MODEL):
            train = from_record(TrainSettings, stages[layout.TRAININGS[part]]["settings"])
            found[name] = Arm(name, replace(train, threads=1), views if train.ssl else None, frozenset())
    return found


def _other_seeds(published: int) -> Iterator[int]:
    """Count the seeds from 1, without the published one."""
    return (seed for seed in count(1) if seed != published)


def _memory(inputs: reader.Reader) -> float:
    return memory_needs.of_arms(inputs, [arm.train.embedding_width for arm in _published(inputs).values()])
