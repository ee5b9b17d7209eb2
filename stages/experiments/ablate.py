"""Train the arms, the rows of the paper and ours, over a few seeds, and compare each with the model without SSL."""

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import typer

from stages.learning import arm_ranks, memory_needs, recency
from stages.learning.arm import READS as OF_ARMS
from stages.learning.arm import Arm, with_precision
from stages.learning.held_out import truth_of
from stages.learning.short_logs import warn_of_few_steps
from stages.options import StageFolder, no_result
from stages.run_folder import dry_run, layout, reader
from stages.run_folder.job import Job
from stages.run_folder.memory_floor import Need
from stages.terminal import console, metrics_table, worker_pool

from . import ablation_table, arms

SIZES = {
    "items": layout.ITEMS,
    "queries": layout.QUERIES,
    "train": layout.TRAIN,
    "validation": layout.VALIDATION,
    "test": layout.TEST,
}
READS = (*OF_ARMS, layout.TEST)
TUNED = layout.TUNING
WRITES = (layout.ABLATION, layout.ABLATION_PAGE)
COMPARISON = "Comparison"


@dataclass(frozen=True)
class AblateSettings:
    """Every flag of `ablate` but the run folder's."""

    arm: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Arm to train in addition to {arms.BASE}; repeatable. [default: all]",
            show_default=False,
            rich_help_panel=COMPARISON,
        ),
    ] = None
    seeds: Annotated[
        int,
        typer.Option(min=1, max=1000, help="Trainings per arm, with the seeds 1, 2, ...", rich_help_panel=COMPARISON),
    ] = 3
    jobs: worker_pool.JobsOption = no_result(1)
    k: Annotated[
        list[int],
        typer.Option(min=1, max=100_000, help="List length k of recall@k; repeatable.", rich_help_panel=COMPARISON),
    ] = field(default_factory=lambda: [50])
    tuned: Annotated[
        bool,
        typer.Option(
            help="Train each arm with the best settings of `tune`, if there are any.", rich_help_panel=COMPARISON
        ),
    ] = True

    @property
    def lengths(self) -> list[int]:
        """Return the distinct list lengths, ascending."""
        return sorted(set(self.k))


def ablate(ctx: typer.Context, folder: StageFolder, settings: AblateSettings) -> None:
    """Train each arm over a few seeds and compare its recall with that of the model without self-supervision.

    Reads features, items, queries, train, validation, test, popularity, mutual_information and, if it exists, tuning.
    Writes ablation.parquet and ablation.md. The arm ssl has the settings of [train] and [build-views]; all other arms
    change some of these. The arms of the paper have no warm-up and no neighbours: no-ssl, feature-dropout, spread-out,
    value-dropout, complementary, random-mask, correlated-no-dropout, correlated. no-warm-up and no-neighbours are ssl
    without that one part. A table [ablate.arms.NAME] in the settings file changes an arm or adds one. RUN/ablation/
    keeps the ranks of every training: a stopped run resumes there and trains only changed arms again. An arm without
    trials of `tune` takes the best settings of no-ssl; no-warm-up and no-neighbours take those of ssl.
    """
    every = arms.known(ctx, folder.config)
    picked = arms.chosen(every, [arms.BASE, *(settings.arm or every)])
    kept: dict[str, object] = {"seeds": settings.seeds, "k": settings.lengths, "tuned": settings.tuned}
    kept |= {f"arm {name}": own.values for name, own in picked.items()}
    widths = [own.train.embedding_width for own in picked.values()]
    job = folder.job(
        "ablate",
        kept,
        reads=READS,
        optional=(TUNED,) if settings.tuned else (),
        writes=WRITES,
        need=Need(partial(memory_needs.of_arms, embedding_widths=widths), torch=True),
    )
    with job:
        if not job.up_to_date:
            _compare(job, folder, settings, every, picked)
    if dry_run.is_planning():
        return
    with reader.reading(folder.run, WRITES[:1], folder.config) as published:
        ablation_table.show(published.read(layout.ABLATION))


def _compare(
    job: Job,
    folder: StageFolder,
    settings: AblateSettings,
    every: dict[str, Arm],
    picked: dict[str, Arm],
) -> None:
    """Train and rank every picked arm with every seed, and stage the table."""
    from ssl_recall.evaluation import comparison

    best = _tuned(job) if settings.tuned else {}
    found = {name: own.tuned(best.get(_source(name, best), {})) for name, own in every.items()}
    every = with_precision(found)
    _warn(job, picked, best, tuned=settings.tuned)
    truth = truth_of(job)
    numbers, depth = range(1, settings.seeds + 1), max(settings.lengths)
    cells = {
        (name, seed): arm_ranks.cell(job, READS, folder.config, every[name], seed, depth, layout.ABLATION_FOLDER)
        for name in every
        for seed in {*numbers, *arm_ranks.seeds_of(folder.run / layout.ABLATION_FOLDER)}
    }
    asked = [cells[name, seed] for seed in numbers for name in picked]
    pairs = len(truth.pair_items)
    arm_ranks.measure_all(job.stage, asked, pairs, settings.jobs, force=folder.force)
    places = {name: [arm_ranks.measured(cells[name, seed], pairs) for seed in numbers] for name in picked}
    frame = comparison.compare_arms(truth, places, arms.BASE, settings.lengths, metrics_table.HEAD_SHARE)
    job.write(layout.ABLATION, frame)
    note = _note(job, settings.seeds, picked, best)
    with job.open(layout.ABLATION_PAGE) as file:
        file.write(ablation_table.markdown(frame, note).encode())
    arm_ranks.sweep(folder.run / layout.ABLATION_FOLDER, cells.values())
    many = f"{settings.seeds} seed{'s' * (settings.seeds > 1)}"
    job.done(f"{len(picked)} arms, {many}, {len(truth.pair_items):,} test pairs")


def _tuned(job: reader.Reader) -> dict[str, dict[str, Any]]:
    """Return the settings of each arm's best trial; warn of a tuning.parquet from other data."""
    if not job.has(TUNED):
        if (job.run / TUNED).exists():
            console.warn(f"{job.run / TUNED}: from other data, ignored; run: ssl-recall tune{job.flags}")
        return {}
    best = job.read(TUNED).filter("best")
    return {name: json.loads(settings) for name, settings in best.select("arm", "settings").iter_rows()}


def _source(arm: str, best: dict[str, Any]) -> str:
    """Name the arm whose best trial `arm` takes: itself, otherwise ssl for an ssl without a part, otherwise no-ssl."""
    if arm in best:
        return arm
    return arms.OWN if arm in arms.WITHOUT and arms.OWN in best else arms.BASE


def _warn(job: reader.Reader, picked: dict[str, Arm], best: dict[str, Any], *, tuned: bool) -> None:
    """Warn, before the training, of too few steps and of arms tuned unequally."""
    warn_of_few_steps(recency.rows_per_epoch(job), picked[arms.BASE].train)
    untuned = [name for name in picked if name not in best and _source(name, best) == arms.BASE]
    if tuned and best.keys() & picked.keys() - {arms.BASE} and untuned:
        how = (
            f"take the settings of {arms.BASE}, while others are tuned themselves" if arms.BASE in best else "not tuned"
        )
        console.warn(f"{', '.join(untuned)}: {how}; run ssl-recall tune for all arms, or use --no-tuned")


def _note(job: reader.Reader, seeds: int, picked: Iterable[str], best: dict[str, Any]) -> str:
    """Describe the table in one line: rows, seeds, tuned arms, versions."""
    import torch

    sizes = {name: job.rows(file) for name, file in SIZES.items()}
    rows = ", ".join(f"{rows:,} {name}" for name, rows in sizes.items())
    tuned = ", ".join(name for name in picked if name in best) or "none"
    for name in picked:
        if name not in best and _source(name, best) == arms.OWN:
            tuned += f"; {name} takes the settings of {arms.OWN}"
    if arms.BASE in best:
        tuned += f"; the others take the settings of {arms.BASE}"
    return (
        f"Rows: {rows}. Seed{'s: 1 to' if seeds > 1 else ':'} {seeds}. Tuned: {tuned}. "
        f"ssl-recall {version('ssl-recall')}, torch {torch.__version__}, Python {platform.python_version()}."
    )
