"""Run every stage in order, doing only what is stale by content."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import config as config_file
from . import console, manifest, options
from .errors import ArtifactError, SettingsError

PIPELINE: tuple[tuple[str, ...], ...] = (
    ("prepare",),
    ("compute-popularity",),
    ("compute-mi",),
    ("build-views",),
    ("train", "--ssl"),
    ("train", "--no-ssl"),
    ("export-embeddings", "--ssl"),
    ("export-embeddings", "--no-ssl"),
    ("evaluate",),
)
OPTIONAL = ("tune", "ablate")  # no part of a run
BaselineOption = Annotated[bool, typer.Option(help="Also train the model without SSL, to compare with.")]


def run(
    ctx: typer.Context,
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    baseline: BaselineOption = True,
    force: options.ForceOption = False,
) -> None:
    """Run all stages in order, each only where its settings or what it reads have changed, and say why.

    prepare, compute-popularity, compute-mi, build-views, train, export-embeddings, evaluate; with --baseline the
    model without SSL is trained and exported too. Settings come from the settings file.
    """
    for step in steps_of(ctx, run, config, baseline=baseline, force=force):
        step()
    paths = [folder / f"{side}_embeddings.parquet" for folder in (run, run / "no-ssl") for side in ("item", "query")]
    made = ", ".join(str(path) for path in paths if path.exists())
    console.line(f"{'run':<26} done; vectors: {made}")


def steps_of(
    ctx: typer.Context, folder: Path, config: Path | None, *, baseline: bool, force: bool = False
) -> list[Callable[[], None]]:
    """Give the pipeline's commands in order; a setting that any of them refuses is refused before the first works."""
    assert ctx.parent is not None, "run is a subcommand"
    if config is None:
        text = "no ssl-recall.toml here; write one with ssl-recall init, or name it with --config"
        raise SettingsError(text, "NO_CONFIG")
    commands = getattr(ctx.parent.command, "commands", {})
    shared = ["--run", str(folder), *(["--config", str(config)] if config else []), *(["--force"] if force else [])]
    steps = [(name, flags) for name, *flags in PIPELINE if baseline or "--no-ssl" not in flags]
    contexts = [commands[name].make_context(name, [*shared, *flags], parent=ctx.parent) for name, flags in steps]
    _agree({name: context.params for (name, _), context in zip(steps, contexts, strict=True)})
    return [partial(_invoke, context) for context in contexts]


def optional_steps(ctx: typer.Context, folder: Path, config: Path | None) -> dict[str, Callable[[], None]]:
    """Give the optional commands that have been run in this folder, with what they were given there."""
    assert ctx.parent is not None, "run is a subcommand"
    try:
        stages = manifest.read(folder)["stages"]
    except ArtifactError:  # every stage says so already
        return {}
    commands = getattr(ctx.parent.command, "commands", {})
    shared = ["--run", str(folder), *(["--config", str(config)] if config else [])]
    steps: dict[str, Callable[[], None]] = {}
    for name in (name for name in OPTIONAL if name in stages):
        given, known = stages[name]["settings"], {parameter.name for parameter in commands[name].params}
        flags = [flag for key in given if key in known for flag in config_file.flags(key, given[key])]
        flags += [flag for key in given if key.startswith("arm ") for flag in ("--arm", key.removeprefix("arm "))]
        steps[name] = partial(_invoke, commands[name].make_context(name, [*shared, *flags], parent=ctx.parent))
    return steps


def _agree(settings: dict[str, dict[str, Any]]) -> None:
    """Refuse at once what a later stage would refuse after the work of the earlier ones."""
    if settings["train"]["history"] and settings["prepare"]["timestamp"] is None:
        raise SettingsError("[train] history needs to know what came before: give timestamp under [prepare]", "NO_TIME")
    for name, use in (("validation_share", "to pick the best epoch by"), ("test_share", "to measure on")):
        if not settings["prepare"][name]:
            raise SettingsError(f"[prepare] {name} is 0: run needs interactions {use}; hold some out", "SHARES")
    if settings["prepare"]["validation_share"] + settings["prepare"]["test_share"] >= 1:
        raise SettingsError("[prepare] validation_share and test_share leave nothing to train on", "SHARES")


def _invoke(context: typer.Context) -> None:
    with context:
        context.command.invoke(context)
