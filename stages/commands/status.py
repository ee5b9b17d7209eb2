"""Print which stages `ssl-recall run` would run, and why, without running them."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stages.learning import checkpoints
from stages.options import RunFolder
from stages.pipeline import OPTIONAL, optional_steps, steps_of
from stages.run_folder import dry_run, layout, lock, manifest, reader
from stages.terminal import console
from stages.terminal.errors import ArtifactError, StageError

from .run import BaselineOption, SeedsOption


def status(
    ctx: typer.Context,
    folder: RunFolder,
    baseline: BaselineOption = True,
    seeds: SeedsOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file that the manifest names; exit 4 if one is damaged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Print for every stage whether it is up to date, and if not, why it would run.

    Reads manifest.json and the files it names; writes nothing. If tune or ablate ran in this folder, it checks them
    with the flags of that run; `run` does not run them.
    """
    if verify:
        _verify(folder.run, folder.config, as_json=as_json)
        return
    with dry_run.planning() as plan:
        for step in steps_of(ctx, folder.run, folder.config, baseline=baseline, seeds=seeds):
            step()
        for name, step in optional_steps(ctx, folder.run, folder.config).items():
            try:
                step()
            except StageError as error:
                plan.stages.append((name, str(error)))
    if as_json:
        rows = [{"stage": stage, "stale": reason, "optional": stage in OPTIONAL} for stage, reason in plan.stages]
        console.out.print(json.dumps(rows), soft_wrap=True)
        return
    who = lock.holder(folder.run)
    for stage, reason in plan.stages:
        title, prefix = (f"{stage} (optional)", "stale: ") if stage in OPTIONAL else (stage, "to run: ")
        stopped = _stopped(folder.run, stage) if who is None else ""
        said = "up to date" if reason is None else f"{prefix}{reason}{stopped}"
        console.out.print(f"{title:<30} {said}", soft_wrap=True)
    if who is not None:
        console.line(f"{folder.run}: in use by {who}")


def _stopped(run: Path, stage: str) -> str:
    """Name the step that an interrupted training would resume from, by its checkpoint's name; else empty."""
    folders = {training: folder for folder, training in layout.TRAININGS.items()}
    step = checkpoints.steps_saved(run / folders[stage] / layout.CHECKPOINTS_FOLDER) if stage in folders else None
    return "" if step is None else f" (a training was stopped after step {step:,})"


def _verify(run: Path, config: Path | None, *, as_json: bool) -> None:
    """Print for every file of a run folder whether it is whole. Raises ArtifactError if one is not."""
    contents = manifest.read(run)
    names = sorted(name for entry in contents["stages"].values() for name in entry["outputs"])
    if not names:
        raise ArtifactError(f"{run}: no stage has been run there; run: ssl-recall run --run {run}", "MISSING")
    problems = {name: _problem(run, contents, name, reader.flags_of(run, config)) for name in names}
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
        return None if error.rule == "STALE" else str(error)  # whole, but made from other inputs than today's
    return None
