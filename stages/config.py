"""The settings file: one table a stage, the names of its flags; a key that no flag has is refused."""

import difflib
import tomllib
from pathlib import Path
from typing import Any

import typer

from .errors import SettingsError

DEFAULT = Path("ssl-recall.toml")


def load(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the command's defaults (an eager option's callback, so flags still win)."""
    if path is None:
        if not DEFAULT.exists():
            return None
        path = DEFAULT
    settings = {name.replace("-", "_"): value for name, value in read(path).items()}
    commands = _commands(ctx)
    tables = {name for name, value in settings.items() if isinstance(value, dict)}
    for name in sorted(tables):
        if name.replace("_", "-") not in commands:
            raise SettingsError(f"{path}: [{name}] is no stage" + _nearest(name, commands), "UNKNOWN_TABLE")
        parameters = {str(parameter.name) for parameter in commands[name.replace("_", "-")].params}
        for key in settings[name]:
            if key not in parameters:
                raise SettingsError(
                    f"{path}: [{name}] has no setting {key!r}" + _nearest(key, parameters), "UNKNOWN_KEY"
                )
    unknown = settings.keys() - tables - {"run"}
    if unknown:
        key = min(unknown)
        raise SettingsError(
            f"{path}: {key!r} stands outside a table" + _nearest(key, {"run", *commands}), "UNKNOWN_KEY"
        )
    table = str(ctx.info_name).replace("-", "_")
    own = settings[table] if table in tables else {}
    shared = {"run": settings["run"]} if not isinstance(settings.get("run", {}), dict) else {}
    ctx.default_map = {**shared, **{key: _flag_value(value) for key, value in own.items()}}
    return path


def read(path: Path) -> dict[str, Any]:
    """Read the file. Raises SettingsError when it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; write one with: ssl-recall init", "NO_CONFIG") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SettingsError(f"{path}: {error}", "BAD_TOML") from None


def _flag_value(value: object) -> object:
    """Turn a table into what its repeatable flag takes: {section = "categorical"} -> ["section=categorical"]."""
    if isinstance(value, dict):
        return [f"{name}={setting}" for name, setting in value.items()]
    return value


def _commands(ctx: typer.Context) -> dict[str, Any]:
    root = ctx.find_root().command
    return dict(getattr(root, "commands", {})) or {str(ctx.info_name): root}


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(k).replace("-", "_") for k in known], n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def flags(name: str, value: object) -> list[str]:
    """Write a setting as the flags that give it: hidden, [64, 8] -> --hidden 64 --hidden 8."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [part for one in (value if isinstance(value, list) else [value]) for part in (f"--{dashed}", str(one))]
