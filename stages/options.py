"""Turn settings dataclasses into flags: each field declares one option of a command.

A field carries its type, default, bounds, help and group in `Annotated[..., typer.Option(...)]`. `command` builds a
flat function for Typer; `recorded` returns the values that the manifest keeps.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from stages.run_folder import layout
from stages.run_folder.job import Job
from stages.terminal import settings_file

DEFAULT_RUN = Path("runs/default")
RESULT = "changes_result"  # key of a field's metadata; False if the setting changes no output
RECORDED = "recorded_as"  # key of a field's metadata: its name in the manifest, if that is another


class Settings(Protocol):
    """Any settings dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


_Settings = TypeVar("_Settings", bound=Settings)


def no_result(default: Any) -> Any:
    """Declare a field that changes no output and so makes no stage stale."""
    return field(default=default, metadata={RESULT: False})


def recorded_as(name: str, default: Any) -> Any:
    """Declare a field that the manifest keeps under the name of an older version, so that no run folder is stale."""
    return field(default=default, metadata={RECORDED: name})


@dataclass(frozen=True)
class RunFolder:
    """The run folder, and the settings file that gives a command its defaults."""

    run: Annotated[
        Path,
        typer.Option(
            "--run",
            help="Run folder, where the command reads and writes its artifacts.",
            callback=layout.own_folder,
            rich_help_panel="Run folder",
        ),
    ] = DEFAULT_RUN
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings file; flags override it. [default: ssl-recall.toml, if it exists]",
            is_eager=True,
            callback=settings_file.load,
            show_default=False,
            rich_help_panel="Run folder",
        ),
    ] = None


@dataclass(frozen=True)
class StageFolder(RunFolder):
    """The run folder of a stage, which skips its work when its outputs are up to date."""

    force: Annotated[bool, typer.Option("--force", help="Run even when up to date.", rich_help_panel="Run folder")] = (
        False
    )

    def job(self, stage: str, values: Mapping[str, object], **files: Any) -> Job:
        """Open a stage of this folder with the settings that the manifest records; `files` are keywords of `Job`."""
        return Job(self.run, stage, values, config=self.config, force=self.force, **files)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Flatten a command: replace each dataclass parameter by its fields, so that Typer reads them as options."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in groups:
            parameters += flat_parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
    signature = inspect.Signature(parameters)

    @wraps(function)
    def flat(*args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        nested = {name: from_values(group, given) for name, group in groups.items()}
        rest = {name: given[name] for name in hints if name in given}
        function(**nested, **rest)

    del flat.__wrapped__  # inspect would follow it to the nested signature
    flat.__signature__ = signature  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def flat_parameters(settings: type[Settings]) -> list[inspect.Parameter]:
    """List the fields of a dataclass as keyword parameters with their annotations and defaults."""
    hints = get_type_hints(settings, include_extras=True)
    return [
        inspect.Parameter(
            one.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default_of(one), annotation=hints[one.name]
        )
        for one in fields(settings)
    ]


def default_of(one: "dataclasses.Field[Any]") -> Any:
    """Return a field's default, `inspect.Parameter.empty` if it has none."""
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return inspect.Parameter.empty if one.default is dataclasses.MISSING else one.default


def from_values(settings: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Build a dataclass from the values named like its fields; ignore other values. An empty list is the default."""
    given = {one.name: values[one.name] for one in fields(settings) if one.name in values}
    listed = {one.name for one in fields(settings) if one.default_factory is not dataclasses.MISSING}
    return settings(**{name: value for name, value in given.items() if value or name not in listed})


def from_record(settings: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Build a dataclass from the values that the manifest recorded; a field without one has its default."""
    given = {}
    for one in fields(settings):
        if one.name in values:
            default, value = default_of(one), values[one.name]
            given[one.name] = type(default)(value) if isinstance(default, Enum) else value
    return settings(**given)


def values_of(settings: Settings) -> dict[str, Any]:
    """Return every field by name."""
    return {one.name: getattr(settings, one.name) for one in fields(settings)}


def recorded(settings: Settings) -> dict[str, Any]:
    """Return the fields that change an output: the manifest keeps them, and a stage is stale when one differs."""
    kept = [one for one in fields(settings) if one.metadata.get(RESULT, True)]
    return {one.metadata.get(RECORDED, one.name): getattr(settings, one.name) for one in kept}


class GroupedCommand(TyperCommand):
    """A command whose `--help` shows the options in named groups, as plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options under its name, in the order of their first option."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                is_argument = parameter.param_type_name == "argument"
                title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=lambda name: (name != "Arguments", name in ("Run folder", "Options"))):
            with formatter.section(title):
                formatter.write_dl(groups[title])
