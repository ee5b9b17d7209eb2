"""The list of commands, and the steps of `run`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from stages.learning.popularity_settings import PopularitySettings, check
from stages.run_folder import manifest
from stages.terminal import settings_file
from stages.terminal.errors import ArtifactError, SettingsError
from stages.user_tables.settings import PrepareSettings

from .options import from_values


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, the module with the function of that name, and its line in `--help`."""

    name: str
    module: str
    title: str


COMMANDS = (
    Command("init", "commands.init", "Look at your tables and write a settings file."),
    Command("run", "commands.run", "Run all stages in order, each only where it is stale."),
    Command("status", "commands.status", "Say what run would do, and why; --verify checks files."),
    Command("prepare", "prepare", "Check and encode the tables, and split the log."),
    Command("compute-popularity", "compute_popularity", "Count the interactions of each item: p and log p."),
    Command("compute-mi", "compute_mi", "Measure mutual information between item features."),
    Command("build-views", "build_views", "Draw pairs of partial views of every item."),
    Command("show-views", "commands.show_views", "Print the views of one item in words."),
    Command("train", "train", "Train the two towers, with or without SSL."),
    Command("export-embeddings", "export_embeddings", "Write the items' and the queries' vectors."),
    Command("train-seeds", "train_seeds", "Train both models with further seeds, for intervals."),
    Command("evaluate", "evaluate", "Measure head, tail and cold recall, with intervals."),
    Command("tune", "experiments.tune", "Search settings on the validation interactions."),
    Command("ablate", "experiments.ablate", "Compare the parts of the SSL over several seeds."),
    Command("clean", "commands.clean", "Remove the files that a killed run left behind."),
)

PIPELINE: tuple[tuple[str, ...], ...] = (
    ("prepare",),
    ("compute-popularity",),
    ("compute-mi",),
    ("build-views",),
    ("train", "--ssl"),
    ("train", "--no-ssl"),
    ("export-embeddings", "--ssl"),
    ("export-embeddings", "--no-ssl"),
    ("train-seeds",),
    ("evaluate",),
)
OPTIONAL = ("tune", "ablate")  # `run` does not start them


def steps_of(
    ctx: typer.Context, folder: Path, config: Path | None, *, baseline: bool, seeds: int | None, force: bool = False
) -> list[Callable[[], None]]:
    """Return the pipeline's commands in order; refuse a bad setting of any of them before the first starts.

    `seeds` is the --seeds of `train-seeds`; None leaves it to that command.
    """
    assert ctx.parent is not None, "run is a subcommand"
    if config is None:
        text = "no ssl-recall.toml here; write one with ssl-recall init, or name it with --config"
        raise SettingsError(text, "NO_CONFIG")
    commands = getattr(ctx.parent.command, "commands", {})
    shared = ["--run", str(folder), *(["--config", str(config)] if config else []), *(["--force"] if force else [])]
    steps = [(name, flags) for name, *flags in PIPELINE if baseline or "--no-ssl" not in flags]
    more = {"train-seeds": ["--seeds", str(seeds)] if seeds else []}
    contexts = [
        commands[name].make_context(name, [*shared, *flags, *more.get(name, [])], parent=ctx.parent)
        for name, flags in steps
    ]
    params = {name: context.params for (name, _), context in zip(steps, contexts, strict=True)}
    params["train-seeds"]["targets"] = params["evaluate"]["targets"]  # the lists to rank
    _agree(
        from_values(PrepareSettings, params["prepare"]), from_values(PopularitySettings, params["compute-popularity"])
    )
    return [partial(_invoke, context) for context in contexts]


def optional_steps(ctx: typer.Context, folder: Path, config: Path | None) -> dict[str, Callable[[], None]]:
    """Return the optional commands that ran in this folder, with their recorded settings."""
    assert ctx.parent is not None, "run is a subcommand"
    try:
        stages = manifest.read(folder)["stages"]
    except ArtifactError:  # every stage reports it already
        return {}
    commands = getattr(ctx.parent.command, "commands", {})
    shared = ["--run", str(folder), *(["--config", str(config)] if config else [])]
    steps: dict[str, Callable[[], None]] = {}
    for name in (name for name in OPTIONAL if name in stages):
        given, known = stages[name]["settings"], {parameter.name for parameter in commands[name].params}
        flags = [flag for key in given if key in known for flag in settings_file.flags(key, given[key])]
        flags += [flag for key in given if key.startswith("arm ") for flag in ("--arm", key.removeprefix("arm "))]
        steps[name] = partial(_invoke, commands[name].make_context(name, [*shared, *flags], parent=ctx.parent))
    return steps


def _agree(prepare: PrepareSettings, popularity: PopularitySettings) -> None:
    """Refuse settings now that a later stage would refuse after the work of the earlier ones."""
    shares = {"validation_share": prepare.validation_share, "test_share": prepare.test_share}
    for name, use in (("validation_share", "to pick the best epoch"), ("test_share", "to measure recall")):
        if not shares[name]:
            raise SettingsError(f"[prepare] {name} is 0: run needs interactions {use}; hold some out", "SHARES")
    if sum(shares.values()) >= 1:
        raise SettingsError("[prepare] validation_share and test_share leave nothing to train on", "SHARES")
    check(popularity, timed=prepare.timestamp is not None)


def _invoke(context: typer.Context) -> None:
    with context:
        context.command.invoke(context)
