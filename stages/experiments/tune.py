"""Search the settings of an arm with Optuna, by recall on the validation interactions."""

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.learning import hardware, memory_needs
from stages.learning.arm import READS, Arm, trained, with_precision
from stages.learning.settings import SelectOn
from stages.options import StageFolder, no_result
from stages.run_folder import dry_run, layout, reader
from stages.run_folder.job import Job
from stages.run_folder.memory_floor import Need
from stages.terminal import console, settings_file, signals, worker_pool
from stages.terminal.errors import ArtifactError, InputError, NumberError, SettingsError, Stopped

from . import arms, best_trials, search_space

if TYPE_CHECKING:
    import optuna
    import polars as pl


WRITES = (layout.TUNING,)
SEARCH = "Search"
FIGURES = ("recall", "recall_head", "recall_tail", "recall_cold")


@dataclass(frozen=True)
class Candidate:
    """One trial: an arm, the settings to try, and the number of trainings in its mean."""

    run: Path
    config: Path | None
    arm: Arm
    space: search_space.Space
    values: dict[str, Any]  # the settings to try
    seeds: int
    number: int


@dataclass(frozen=True)
class TuneSettings:
    """Every flag of `tune` but the run folder's."""

    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Arm of `ablate` to tune; repeatable. [default: no-ssl ssl]",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None
    trials: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Trials per arm, counting those of earlier calls.", rich_help_panel=SEARCH
        ),
    ] = 20
    seeds: Annotated[
        int,
        typer.Option(min=1, max=1000, help="Trainings per trial; its value is their mean.", rich_help_panel=SEARCH),
    ] = 1
    jobs: worker_pool.JobsOption = no_result(1)
    select_on: Annotated[
        SelectOn, typer.Option(help="Slice whose validation recall is maximised.", rich_help_panel=SEARCH)
    ] = SelectOn.BALANCED
    seed: Annotated[int, typer.Option(min=0, max=2**30, help="Seed of the search.", rich_help_panel=SEARCH)] = 1


def tune(ctx: typer.Context, folder: StageFolder, settings: TuneSettings) -> None:
    """Search the settings of each arm, with equal numbers of trials, on the validation interactions alone.

    Reads features, items, queries, train, validation, popularity and mutual_information. Writes tuning.parquet, from
    which `ablate` takes each arm's best trial, and prints that trial for the settings file. The first trial has the
    settings of the settings file. RUN/tuning/ keeps the studies: a stopped search resumes, as does one with more
    --trials.
    """
    if not dry_run.is_planning():
        _need_optuna()
    every = arms.known(ctx, folder.config)
    picked = arms.chosen(every, settings.arm or [arms.BASE, arms.OWN])
    kept = {name: getattr(settings, name) for name in ("trials", "seeds", "select_on", "seed")}
    kept |= {f"arm {name}": own.values for name, own in picked.items()}
    widths = [own.train.embedding_width for own in picked.values()]
    need = Need(partial(memory_needs.of_arms, embedding_widths=widths), torch=True)
    with folder.job("tune", kept, reads=READS, writes=WRITES, need=need) as job:
        if not job.up_to_date:
            _search_all(job, folder, settings, every, picked)
    if dry_run.is_planning():
        return
    with reader.reading(folder.run, WRITES, folder.config) as published:
        plain, file = arms.plain(ctx, folder.config), folder.config or settings_file.DEFAULT
        best_trials.show(published.read(layout.TUNING), picked, plain, settings.select_on, file)


def _search_all(
    job: Job, folder: StageFolder, settings: TuneSettings, every: Mapping[str, Arm], picked: Mapping[str, Arm]
) -> None:
    """Search the picked arms, and stage the trials of every arm that has a study."""
    rows: list[dict[str, Any]] = []
    for name, own, space in search_space.of_run(job, with_precision(every)):
        path = folder.run / layout.TUNING_FOLDER / f"{name}.journal"
        key = own.key(job.inputs, space, settings.seeds, settings.select_on, settings.seed)
        if name not in picked and not path.exists():
            continue
        study = _study(path, f"{name}-{key}", job.flags, force=folder.force and name in picked)
        if name in picked:
            _search(study, Candidate(folder.run, folder.config, own, space, {}, settings.seeds, 0), settings)
        rows += _rows(name, study)
    job.write(layout.TUNING, _frame(rows))
    best = {row["arm"]: row["value"] for row in rows if row["best"]}
    said = ", ".join(f"{name} {best[name]:.4f}" if name in best else f"{name} none" for name in picked)
    job.done(f"{settings.trials} trials for each arm, best {settings.select_on}: {said}")


def _rows(arm: str, study: "optuna.Study") -> list[dict[str, Any]]:
    """Return a row for each finished trial and mark the best one; of equal trials, the first."""
    found = [trial.user_attrs["result"] for trial in _finished(study)]
    counted = [number for number, result in enumerate(found) if result["value"] is not None]
    best = max(counted, key=lambda number: found[number]["value"], default=None)
    return [{"arm": arm, "trial": number, "best": number == best} | result for number, result in enumerate(found)]


def validate(candidate: Candidate) -> dict[str, Any] | None:
    """Train; return the best epoch's validation recall, mean over the seeds, or None if a loss is not finite."""
    start, arm = time.monotonic(), candidate.arm.tuned(candidate.values)
    found: list[dict[str, Any]] = []
    epochs = 0
    with reader.reading(candidate.run, READS, candidate.config) as job:
        place = hardware.device_of(arm.train.device)
        hardware.use(1, place)
        for seed in range(1, candidate.seeds + 1):
            try:
                fit = trained(job, arm.seeded(seed), place)
            except NumberError:
                return None
            found.append(fit.best)
            epochs += len(fit.curve)
    names = {name for name in found[0] if name.startswith("recall")}
    means = {name: math.fsum(best[name] for best in found) / len(found) for name in names}
    return means | {"epochs": epochs, "seconds": time.monotonic() - start}


def _need_optuna() -> None:
    """Raise SettingsError if Optuna is not installed; otherwise silence its log and warnings."""
    try:
        import optuna
    except ImportError:
        raise SettingsError("tune needs Optuna; run: pip install 'optuna>=4'", "NO_OPTUNA") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _study(path: Path, name: str, flags: str, *, force: bool) -> "optuna.Study":
    """Open a study under the lock of the run folder. Raises ArtifactError if its file is damaged or not a journal."""
    path.parent.mkdir(exist_ok=True)
    try:
        study = _opened(path, name, force=force)
        _frame(_rows(name, study))  # fails if a stored result is damaged
    except Exception as error:
        if isinstance(error, OSError | MemoryError) and not path.is_dir():
            raise
        text = f"{path}: damaged, or no journal of a search; remove it, and this arm's search begins again with"
        raise ArtifactError(f"{text}: ssl-recall tune{flags}", "CORRUPT") from None
    return study


def _opened(path: Path, name: str, *, force: bool) -> "optuna.Study":
    """Open a study, and remove the unfinished line, lock and trials of a killed process."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        json.loads(b"[%s]" % b",".join(whole[:end].splitlines()))  # Optuna would append to a journal of bad lines
        if whole[end : end + 1] not in (b"", b"{"):
            raise ValueError("does not end with the beginning of a line")
        with path.open("r+b") as file:
            file.truncate(end)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    if force:
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        _tell(study, trial.number, trial.user_attrs.get("result", {}).get("value"))
    return study


def _finished(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the finished trials, failed ones included, in the order of their start."""
    return [trial for trial in study.get_trials(deepcopy=False) if "result" in trial.user_attrs]


def _search(study: "optuna.Study", base: Candidate, settings: TuneSettings) -> None:
    """Run the remaining trials of an arm, and print a line after each."""
    begun: dict[int, optuna.Trial] = {}
    title = f"tune {base.arm.name}"
    candidates = _candidates(study, base, settings.trials, settings.seed, begun)
    left = max(settings.trials - len(_finished(study)), 0)
    try:
        with (
            worker_pool.run_tasks(validate, candidates, settings.jobs) as results,
            console.progress(title, left, "trials") as advance,
        ):
            for candidate, found in results:
                value = None if found is None else found[f"recall_{settings.select_on}"]
                if value is not None and math.isnan(value):
                    text = f"{layout.VALIDATION}: no {settings.select_on} item to rate a trial by"
                    raise InputError(f"{text}; choose another --select-on", "TOO_FEW")
                trial = begun.pop(candidate.number)
                trial.set_user_attr("result", {"settings": candidate.values, "value": value, **(found or {})})
                _tell(study, trial.number, value)
                console.line(
                    f"{title:<26} trial {candidate.number}: {_said(candidate, found, value, settings.select_on)}"
                )
                advance(1)
    except (KeyboardInterrupt, signals.Terminated) as error:
        text = f"stopped; finished trials are kept; to go on run: {console.same_command()}"
        raise Stopped(text, signals.number_of(error)) from None


def _candidates(
    study: "optuna.Study", base: Candidate, trials: int, seed: int, begun: "dict[int, optuna.Trial]"
) -> Iterator[Candidate]:
    """Ask the study for each remaining trial when a worker is free.

    Every trial has a sampler with its own seed, so that a resumed search draws the same trials as an uninterrupted one.
    """
    import numpy as np
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(**made_of) if "choices" in made_of else FloatDistribution(**made_of)
        for name, made_of in base.space.items()
    }
    tried = [
        t
        for t in study.get_trials()
        if "own" in t.user_attrs and ("result" in t.user_attrs or not t.state.is_finished())
    ]
    if not tried:
        study.enqueue_trial({name: base.arm.values[name] for name in base.space}, user_attrs={"own": True})
    for number in range(len(_finished(study)), trials):
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=drawn, constant_liar=True)
        trial = study.ask(distributions)
        begun[number] = trial
        yield replace(base, values=trial.params, number=number)


def _tell(study: "optuna.Study", number: int, value: float | None) -> None:
    from optuna.trial import TrialState

    study.tell(number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)


def _said(candidate: Candidate, found: dict[str, Any] | None, value: float | None, select_on: SelectOn) -> str:
    own = candidate.arm.values
    tried = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in candidate.values.items()
        if value != own[name]
    )
    tried = tried or "the current settings"
    if found is None:
        return f"failed, the loss is not finite: {tried}"
    return f"{value:.4f} {select_on}, {found['epochs']} epochs, {found['seconds']:.1f} s: {tried}"


def _frame(rows: list[dict[str, Any]]) -> "pl.DataFrame":
    """Return the rows as tuning.parquet, settings in JSON."""
    import polars as pl

    floats = ("value", *FIGURES)
    schema = (
        {"arm": pl.String, "trial": pl.Int32, "settings": pl.String}
        | dict.fromkeys(floats, pl.Float64)
        | {"epochs": pl.Int32, "seconds": pl.Float64, "best": pl.Boolean}
    )
    told = [row | {"settings": json.dumps(row["settings"], sort_keys=True)} for row in rows]
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in told], schema=schema).with_columns(
        pl.col(floats).fill_nan(None)
    )
