"""Show what `ssl-recall run` would do, and why, without doing it."""

import json
from typing import Annotated

import typer

from . import artifacts, console
from .errors import StageError
from .run import OPTIONAL, BaselineOption, optional_steps, steps_of


def status(
    ctx: typer.Context,
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    baseline: BaselineOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout in place of the table.")] = False,
) -> None:
    """Say of every stage whether it is up to date, and if not, why it would run.

    Reads manifest.json and the files it names; writes nothing. tune and ablate, where they were run in this folder, are
    looked at with the flags they had there; `run` leaves them alone.
    """
    with artifacts.planning() as plan:
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
    for stage, reason in plan.stages:
        title, prefix = (f"{stage} (optional)", "stale: ") if stage in OPTIONAL else (stage, "to run: ")
        console.out.print(f"{title:<30} {'up to date' if reason is None else prefix + reason}", soft_wrap=True)
