"""Run every stage in order, doing only what is stale by content."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from . import artifacts

PIPELINE: tuple[tuple[str, ...], ...] = (
    ("prepare",),
    ("compute-popularity",),
    ("compute-mi",),
    ("build-views",),
    ("train",),
    ("train", "--no-ssl"),
    ("export-embeddings",),
    ("export-embeddings", "--no-ssl"),
    ("evaluate",),
)
BaselineOption = Annotated[bool, typer.Option(help="Also train the model without SSL, to compare with.")]


def run(
    ctx: typer.Context,
    run: artifacts.RunOption = artifacts.DEFAULT_RUN,
    config: artifacts.ConfigOption = None,
    baseline: BaselineOption = True,
    force: artifacts.ForceOption = False,
) -> None:
    """Run all stages in order, each only where its settings or what it reads have changed, and say why.

    prepare, compute-popularity, compute-mi, build-views, train, export-embeddings, evaluate; with --baseline the
    model without SSL is trained and exported too. Settings come from the settings file.
    """
    for step in steps_of(ctx, run, config, baseline=baseline, force=force):
        step()


def steps_of(
    ctx: typer.Context, folder: Path, config: Path | None, *, baseline: bool, force: bool = False
) -> Iterator[Callable[[], object]]:
    """Give the pipeline's commands in order, each with this run folder and settings file."""
    assert ctx.parent is not None, "run is a subcommand"
    commands = getattr(ctx.parent.command, "commands", {})
    shared = ["--run", str(folder), *(["--config", str(config)] if config else []), *(["--force"] if force else [])]
    for name, *flags in PIPELINE:
        if baseline or "--no-ssl" not in flags:
            yield partial(
                commands[name].main, [*shared, *flags], prog_name=name, standalone_mode=False, parent=ctx.parent
            )
