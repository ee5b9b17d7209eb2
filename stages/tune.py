"""Search the settings of an arm with Optuna, by what is recalled of the validation interactions."""

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import (
    arms,
    artifacts,
    best_trials,
    console,
    models,
    options,
    planning,
    processor,
    reader,
    search_space,
    signals,
    workers,
)
from . import config as config_file
from .errors import ArtifactError, InputError, NumberError, SettingsError, Stopped
from .fitting import SelectOn

if TYPE_CHECKING:
    import optuna
    import polars as pl

READS = arms.READS
WRITES = ("tuning.parquet",)
FOLDER = "tuning"
FIGURES = ("recall", "recall_head", "recall_tail", "recall_cold")


@dataclass(frozen=True)
class Candidate:
    """One trial: an arm with the settings to try, and the trainings whose mean is its value."""

    run: Path
    config: Path | None
    arm: arms.Arm
    space: search_space.Space
    settings: dict[str, Any]
    seeds: int
    number: int


def tune(
    ctx: typer.Context,
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="An arm of `ablate`; repeatable. [default: no-ssl ssl]", show_default=False),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="In all, the same for each arm.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings a trial; its value is their mean.")] = 1,
    jobs: workers.JobsOption = 1,
    select_on: Annotated[
        SelectOn, typer.Option(help="The validation recall that is to be as large as possible.")
    ] = SelectOn.BALANCED,
    seed: Annotated[int, typer.Option(min=0, max=2**30, help="Of the search.")] = 1,
    force: options.ForceOption = False,
) -> None:
    """Search the settings of arms, the same number of trials for each, on the validation interactions alone.

    Reads features, items, queries, train, validation, popularity and mutual_information; writes tuning.parquet, from
    which `ablate` takes each arm's best trial, and prints that for the settings file. The first trial has the settings
    of the settings file. The studies are kept in RUN/tuning/: a stopped search goes on where it was, and one with more
    --trials goes on from there.
    """
    if not planning.is_planning():
        _need_optuna()
    every = arms.known(ctx, config)
    picked = arms.chosen(every, arm or [arms.BASE, arms.OWN])
    settings = {"trials": trials, "seeds": seeds, "select_on": select_on, "seed": seed, "config": config}
    settings |= {f"arm {name}": own.settings for name, own in picked.items()}
    with artifacts.Job(run, "tune", settings, reads=READS, writes=WRITES, force=force) as job:
        if not job.up_to_date:
            rows: list[dict[str, Any]] = []
            for name, own in arms.with_precision(every).items():
                space = search_space.of_arm(own, job.rows("train.parquet"))
                path, key = run / FOLDER / f"{name}.journal", own.key(job.inputs, space, seeds, select_on, seed)
                if name not in picked and not path.exists():
                    continue
                study = _study(path, f"{name}-{key}", job.flags, force=force and name in picked)
                if name in picked:
                    _search(study, Candidate(run, config, own, space, {}, seeds, 0), trials, jobs, select_on, seed)
                rows += _rows(name, study)
            job.write("tuning.parquet", _frame(rows))
            best = {row["arm"]: row["value"] for row in rows if row["best"]}
            said = ", ".join(f"{name} {best[name]:.4f}" if name in best else f"{name} none" for name in picked)
            job.done(f"{trials} trials for each arm, best {select_on}: {said}")
    if planning.is_planning():
        return
    with reader.reading(run, WRITES, config) as published:
        plain, file = arms.plain(ctx, config), config or config_file.DEFAULT
        best_trials.show(published.read("tuning.parquet"), picked, plain, select_on, file)


def _rows(arm: str, study: "optuna.Study") -> list[dict[str, Any]]:
    """Lay out the trials that came to an end, with a mark at the best: the first of equal ones."""
    found = [trial.user_attrs["result"] for trial in _finished(study)]
    counted = [number for number, result in enumerate(found) if result["value"] is not None]
    best = max(counted, key=lambda number: found[number]["value"], default=None)
    return [{"arm": arm, "trial": number, "best": number == best} | result for number, result in enumerate(found)]


def validate(candidate: Candidate) -> dict[str, Any] | None:
    """Train, and give the validation recall of the best epoch, mean over the seeds; None where a loss is no number."""
    start, arm = time.monotonic(), candidate.arm.tuned(candidate.settings)
    found: list[dict[str, Any]] = []
    epochs = 0
    with reader.reading(candidate.run, READS, candidate.config) as job:
        place = models.device_of(arm.train["device"])
        processor.use(1, place)
        for seed in range(1, candidate.seeds + 1):
            try:
                fit = arms.trained(job, arm.seeded(seed), place)
            except NumberError:
                return None
            found.append(fit.best)
            epochs += len(fit.curve)
    names = {name for name in found[0] if name.startswith("recall")}
    means = {name: math.fsum(best[name] for best in found) / len(found) for name in names}
    return means | {"epochs": epochs, "seconds": time.monotonic() - start}


def _need_optuna() -> None:
    """Refuse to begin where Optuna is missing, and keep it quiet where it is there."""
    try:
        import optuna
    except ImportError:
        raise SettingsError("tune needs Optuna; run: pip install 'ssl-recall[tune]'", "NO_OPTUNA") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _study(path: Path, name: str, flags: str, *, force: bool) -> "optuna.Study":
    """Open a study under the lock of the run folder. Raises ArtifactError where its journal is none, or is damaged."""
    path.parent.mkdir(exist_ok=True)
    try:
        study = _opened(path, name, force=force)
        _frame(_rows(name, study))  # the results are whole, too
    except Exception as error:
        if isinstance(error, OSError | MemoryError) and not path.is_dir():
            raise
        text = f"{path}: damaged, or no journal of a search; remove it, and this arm's search begins again with"
        raise ArtifactError(f"{text}: ssl-recall tune{flags}", "CORRUPT") from None
    return study


def _opened(path: Path, name: str, *, force: bool) -> "optuna.Study":
    """Open a study, and set right what a killed process left of it."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        json.loads(
            b"[%s]" % b",".join(whole[:end].splitlines())
        )  # Optuna would write on behind a last line of no sense
        if whole[end : end + 1] not in (b"", b"{"):
            raise ValueError("ends with no beginning of a line")
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
    """Give the trials that came to an end, failed ones too, in the order in which they began."""
    return [trial for trial in study.get_trials(deepcopy=False) if "result" in trial.user_attrs]


def _search(study: "optuna.Study", base: Candidate, trials: int, jobs: int, select_on: SelectOn, seed: int) -> None:
    """Run what is left of an arm's trials, a line for each as it is done."""
    begun: dict[int, optuna.Trial] = {}
    title = f"tune {base.arm.name}"
    candidates = _candidates(study, base, trials, seed, begun)
    left = max(trials - len(_finished(study)), 0)
    try:
        with workers.each(validate, candidates, jobs) as results, console.progress(title, left, "trials") as advance:
            for candidate, found in results:
                value = None if found is None else found[f"recall_{select_on}"]
                if value is not None and math.isnan(value):
                    text = f"validation.parquet: holds nothing of {select_on} out; take another --select-on"
                    raise InputError(text, "TOO_FEW")
                trial = begun.pop(candidate.number)
                trial.set_user_attr("result", {"settings": candidate.settings, "value": value, **(found or {})})
                _tell(study, trial.number, value)
                console.line(f"{title:<26} trial {candidate.number}: {_said(candidate, found, value, select_on)}")
                advance(1)
    except (KeyboardInterrupt, signals.Terminated) as error:
        text = f"stopped; what has been tried is kept; to go on run: {console.same_command()}"
        raise Stopped(text, signals.number_of(error)) from None


def _candidates(
    study: "optuna.Study", base: Candidate, trials: int, seed: int, begun: "dict[int, optuna.Trial]"
) -> Iterator[Candidate]:
    """Ask for what is left of the trials, each when there is somebody to do it.

    A sampler of its own for each, so that a search that goes on draws what one in a single piece would have drawn.
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
        study.enqueue_trial({name: base.arm.settings[name] for name in base.space}, user_attrs={"own": True})
    for number in range(len(_finished(study)), trials):
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=drawn, constant_liar=True)
        trial = study.ask(distributions)
        begun[number] = trial
        yield replace(base, settings=trial.params, number=number)


def _tell(study: "optuna.Study", number: int, value: float | None) -> None:
    from optuna.trial import TrialState

    study.tell(number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)


def _said(candidate: Candidate, found: dict[str, Any] | None, value: float | None, select_on: SelectOn) -> str:
    own = candidate.arm.settings
    tried = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in candidate.settings.items()
        if value != own[name]
    )
    tried = tried or "the settings as they are"
    if found is None:
        return f"failed, the loss is no number: {tried}"
    return f"{value:.4f} {select_on}, {found['epochs']} epochs, {found['seconds']:.1f} s: {tried}"


def _frame(rows: list[dict[str, Any]]) -> "pl.DataFrame":
    """Lay out tuning.parquet."""
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
