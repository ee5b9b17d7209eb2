"""Show what `ssl-recall run` would do, and why, without doing it."""

import json
from typing import Annotated

import typer

from . import artifacts, console
from .run import BaselineOption, steps_of


def status(
    ctx: typer.Context,
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    baseline: BaselineOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout in place of the table.")] = False,
) -> None:
    """Say of every stage whether it is up to date, and if not, why it would run.

    Reads manifest.json and the files it names; writes nothing.
    """
    with artifacts.planning() as plan:
        for step in steps_of(ctx, run, config, baseline=baseline):
            step()
    if as_json:
        console.out.print(
            json.dumps([{"stage": stage, "stale": reason} for stage, reason in plan.stages]), soft_wrap=True
        )
        return
    for stage, reason in plan.stages:
        console.out.print(f"{stage:<30} {'up to date' if reason is None else 'to run: ' + reason}", soft_wrap=True)
