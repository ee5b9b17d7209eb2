"""Show what `ssl-recall run` would do, and why, without doing it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from . import checkpoints, console, contract, manifest, options, planning, publish, reader
from .errors import ArtifactError, StageError
from .run import OPTIONAL, BaselineOption, optional_steps, steps_of


def status(
    ctx: typer.Context,
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    baseline: BaselineOption = True,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file that the manifest names; exit 4 when one is not whole.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout in place of the table.")] = False,
) -> None:
    """Say of every stage whether it is up to date, and if not, why it would run.

    Reads manifest.json and the files it names; writes nothing. tune and ablate, where they were run in this folder, are
    looked at with the flags they had there; `run` leaves them alone.
    """
    if verify:
        _verify(run, config, as_json=as_json)
        return
    with planning.planning() as plan:
        for step in steps_of(ctx, run, config, baseline=baseline):
            step()
        for name, step in optional_steps(ctx, run, config).items():
            try:
                step()
            except StageError as error:
                plan.stages.append((name, str(error)))
    if as_json:
        rows = [{"stage": stage, "stale": reason, "optional": stage in OPTIONAL} for stage, reason in plan.stages]
        console.out.print(json.dumps(rows), soft_wrap=True)
        return
    who = publish.holder(run)
    for stage, reason in plan.stages:
        title, prefix = (f"{stage} (optional)", "stale: ") if stage in OPTIONAL else (stage, "to run: ")
        stopped = _stopped(run, stage) if who is None else ""
        said = "up to date" if reason is None else f"{prefix}{reason}{stopped}"
        console.out.print(f"{title:<30} {said}", soft_wrap=True)
    if who is not None:
        console.line(f"{run}: in use by {who}")


def _stopped(run: Path, stage: str) -> str:
    """Say of a training that it would go on from a checkpoint, as far as its name tells."""
    folders = {training: folder for folder, training in contract.TRAININGS.items()}
    step = checkpoints.steps_saved(run / folders[stage] / checkpoints.FOLDER) if stage in folders else None
    return "" if step is None else f" (a training was stopped after step {step:,})"


def _verify(run: Path, config: Path | None, *, as_json: bool) -> None:
    """Say of every file of a run folder whether it is whole. Raises ArtifactError where one is not."""
    told = manifest.read(run)
    names = sorted(name for entry in told["stages"].values() for name in entry["outputs"])
    if not names:
        raise ArtifactError(f"{run}: no stage has been run there; run: ssl-recall run --run {run}", "MISSING")
    problems = {name: _problem(run, told, name, reader.flags_of(run, config)) for name in names}
    if as_json:
        console.out.print(json.dumps([{"file": n, "problem": p} for n, p in problems.items()]), soft_wrap=True)
    else:
        for name, problem in problems.items():
            console.out.print(f"{name:<40} {problem or 'whole'}", soft_wrap=True)
    if bad := [name for name in names if problems[name]]:
        raise ArtifactError(f"{run}: {len(bad)} of {len(names)} files are missing, or not what was written", "CORRUPT")


def _problem(run: Path, told: manifest.Manifest, name: str, flags: str) -> str | None:
    try:
        os.close(manifest.verified(run, told, name, flags).descriptor)
    except ArtifactError as error:
        return None if error.rule == "STALE" else str(error)  # whole, though of other inputs than today's
    return None
