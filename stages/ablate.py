"""Train the rows of the paper, the arms, over a few seeds, and compare each with the model without self-supervision."""

import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import (
    ablation_table,
    arms,
    artifacts,
    console,
    evaluate,
    metrics_table,
    options,
    planning,
    ranks,
    reader,
    signals,
    train,
    workers,
)
from .errors import Stopped

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

READS = (*arms.READS, "test.parquet")
TUNED = "tuning.parquet"
WRITES = ("ablation.parquet", "ablation.md")
TunedOption = Annotated[
    bool, typer.Option(help="Give an arm the settings that `tune` found for it, where it has looked.")
]


def ablate(
    ctx: typer.Context,
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help=f"An arm to train beside {arms.BASE}; repeatable. [default: all]", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings of each arm, with the seeds 1, 2, ...")] = 3,
    jobs: workers.JobsOption = 1,
    k: Annotated[
        list[int] | None, typer.Option(min=1, max=100_000, help="Length of the lists; repeatable. [default: 50]")
    ] = None,
    tuned: TunedOption = True,
    force: options.ForceOption = False,
) -> None:
    """Train each arm over a few seeds, and say by how much it recalls more than the model without self-supervision.

    Reads features, items, queries, train, validation, test, popularity, mutual_information and (where it is there)
    tuning; writes ablation.parquet and ablation.md. The arms are those of the paper, without warm-up and neighbours
    (no-ssl, feature-dropout, spread-out, value-dropout, complementary, random-mask, correlated-no-dropout, correlated),
    and ssl, the settings of [train] and [build-views] as they are, which the others start from; no-warm-up and
    no-neighbours are ssl without the one or the other. A table [ablate.arms.NAME] of the settings file changes an arm
    or adds one. What has been trained is kept in RUN/ablation/: a stopped run goes on where it was, and only what has
    changed is trained again. What `tune` found for no-ssl is taken for all arms that it did not look at, but for the
    two that are ssl without a part, which take what it found for ssl.
    """
    every = arms.known(ctx, config)
    picked = arms.chosen(every, [arms.BASE, *(arm or every)])
    ks = sorted(set(k or [50]))
    settings = {"seeds": seeds, "k": ks, "tuned": tuned, "config": config}
    settings |= {f"arm {name}": own.settings for name, own in picked.items()}
    optional = (TUNED,) if tuned else ()
    job = artifacts.Job(run, "ablate", settings, reads=READS, optional=optional, writes=WRITES, force=force)
    with job:
        if not job.up_to_date:
            best = _tuned(job) if tuned else {}
            found = {name: own.tuned(best.get(_source(name, best), {})) for name, own in every.items()}
            every = arms.with_precision(found)
            _warn(job, picked, best, tuned=tuned)
            truth = evaluate.truth_of(job)
            numbers = range(1, seeds + 1)
            cells = {
                (name, seed): ranks.cell(job, READS, config, every[name], seed, max(ks))
                for name in every
                for seed in {*numbers, *ranks.seeds_of(run)}
            }
            asked = [cells[name, seed] for seed in numbers for name in picked]
            _measure(asked, len(truth.pair_items), jobs, force=force)
            places = {name: [_places(cells[name, seed], len(truth.pair_items)) for seed in numbers] for name in picked}
            frame = _table(truth, places, ks)
            job.write("ablation.parquet", frame)
            note = _note(job, seeds, picked, best)
            with job.open("ablation.md") as file:
                file.write(ablation_table.markdown(frame, note).encode())
            ranks.sweep(run, cells)
            job.done(f"{len(picked)} arms, {seeds} seed{'s' * (seeds > 1)}, {len(truth.pair_items):,} test pairs")
    if planning.is_planning():
        return
    with reader.reading(run, WRITES[:1], config) as published:
        ablation_table.show(published.read("ablation.parquet"))


def _tuned(job: reader.Reader) -> dict[str, dict[str, Any]]:
    """Give the settings of each arm's best trial."""
    if not job.has(TUNED):
        if (job.run / TUNED).exists():
            console.warn(f"{job.run / TUNED}: of other data than today's, left out; run: ssl-recall tune{job.flags}")
        return {}
    best = job.read(TUNED).filter("best")
    return {name: json.loads(settings) for name, settings in best.select("arm", "settings").iter_rows()}


def _source(arm: str, best: dict[str, Any]) -> str:
    """Name the arm whose best trial another takes: itself, or else the one that it is a change of."""
    if arm in best:
        return arm
    return arms.OWN if arm in arms.WITHOUT and arms.OWN in best else arms.BASE


def _warn(job: reader.Reader, picked: dict[str, arms.Arm], best: dict[str, Any], *, tuned: bool) -> None:
    """Say at once what makes the table hard to believe."""
    train.warn_of_few_steps(job.rows("train.parquet"), picked[arms.BASE].train)
    untuned = [name for name in picked if name not in best and _source(name, best) == arms.BASE]
    if tuned and best.keys() & picked.keys() - {arms.BASE} and untuned:
        how = (
            f"take the settings of {arms.BASE}, while others are tuned themselves" if arms.BASE in best else "not tuned"
        )
        console.warn(f"{', '.join(untuned)}: {how}; run ssl-recall tune for all, or --no-tuned")


def _measure(cells: list[ranks.Cell], pairs: int, jobs: int, *, force: bool) -> None:
    """Train what has no ranks yet, a line for each as it is done."""
    missing = [cell for cell in cells if force or ranks.stored(cell, pairs) is None]
    if len(missing) < len(cells):
        console.line(f"{'ablate':<26} {len(cells) - len(missing)} of {len(cells)} arms and seeds are there already")
    try:
        with (
            workers.each(ranks.measure, missing, jobs) as results,
            console.progress("ablate", len(missing), "models") as advance,
        ):
            for cell, said in results:
                console.line(f"{'ablate':<26} {cell.arm.name} seed {cell.seed}: {said}")
                advance(1)
    except (KeyboardInterrupt, signals.Terminated) as error:
        text = f"stopped; what has been trained is kept; to go on run: {console.same_command()}"
        raise Stopped(text, signals.number_of(error)) from None


def _places(cell: ranks.Cell, pairs: int) -> "Tensor":
    found = ranks.stored(cell, pairs)
    assert found is not None, "measured above"
    return found


def _table(truth: evaluate.Truth, places: "dict[str, list[Tensor]]", ks: list[int]) -> "pl.DataFrame":
    """Lay out ablation.parquet; a column of the sums is an arm, slice and k, a row one query under one seed."""
    import polars as pl
    import torch

    from ssl_recall import intervals, metrics, retrieval

    members = {
        name: inside[truth.pair_items]
        for name, inside in metrics.slices(truth.counts, metrics_table.HEAD_SHARE).items()
    }
    keys = [(part, "recall", k) for part in members for k in ks]
    zeros = torch.zeros(len(truth.queries), len(keys), dtype=torch.float64)
    counted = torch.stack([members[part] for part, _, _ in keys], 1).double()  # (P, C)
    trials = zeros.index_add(0, truth.pair_rows, counted)

    def sums(place: "Tensor") -> "Tensor":
        within = torch.stack([(place > 0) & (place <= k) for _, _, k in keys], 1)
        return zeros.index_add(0, truth.pair_rows, within * counted)

    by_arm = {name: torch.stack([sums(place) for place in own]) for name, own in places.items()}  # (S, Q, C)
    others = [name for name in by_arm if name != arms.BASE]
    gains = torch.cat([by_arm[name] - by_arm[arms.BASE] for name in others] or [by_arm[arms.BASE]], 2)
    ends = intervals.over_seeds(gains, trials.repeat(1, max(len(others), 1)))
    difference = gains.sum(1).mean(0) / trials.sum(0).repeat(max(len(others), 1))
    change = dict(zip(others, zip(*(x.split(len(keys)) for x in (difference, *ends)), strict=True), strict=False))
    popular = retrieval.most_popular(truth.counts, len(truth.queries), max(ks), truth.known)
    by_arm = {"most-popular": sums(metrics.ranks(popular, truth.pair_rows, truth.pair_items))[None]} | by_arm
    rows = []
    nothing = torch.full((len(keys),), torch.nan)
    for name, found in by_arm.items():
        recall = found.sum(1) / trials.sum(0)
        std = recall.std(0) if len(recall) > 1 else nothing
        numbers = (recall.mean(0), std, *change.get(name, (nothing, nothing, nothing)))
        seeds = len(places.get(name, ()))
        rows += [
            (name, *key, *figures, by_seed, seeds, int(n))
            for key, n, by_seed, *figures in zip(
                keys, trials.sum(0), recall.T.tolist(), *(x.tolist() for x in numbers), strict=True
            )
        ]
    floats = ("value", "std", "difference", "low", "high")
    schema: dict[str, Any] = (
        dict.fromkeys(("arm", "slice", "metric"), pl.String)
        | {"k": pl.Int32}
        | dict.fromkeys(floats, pl.Float64)
        | {"by_seed": pl.List(pl.Float64), "seeds": pl.Int32, "n": pl.Int64}
    )
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col(floats).fill_nan(None))


def _note(job: reader.Reader, seeds: int, picked: Iterable[str], best: dict[str, Any]) -> str:
    """Say in a line what the table is of."""
    import torch

    sizes = {name: job.rows(f"{name}.parquet") for name in ("items", "queries", "train", "validation", "test")}
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
