"""Read the settings file: one table per stage, one key per flag; refuse a key that is no flag."""

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import typer

from .errors import SettingsError

DEFAULT = Path("ssl-recall.toml")
ARM_STAGES = ("build-views", "train")  # stages whose settings an arm, [ablate.arms.NAME], may change
ARM_NAME = re.compile("[a-z0-9][a-z0-9-]*")
LONGEST = 40  # characters of a value in a message
OF_ABLATE = {"run", "config", "force", "seed", "threads"}  # except these: ablate and tune set them for all arms


def load(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the command's defaults (callback of an eager option, so flags override them)."""
    if path is None:
        if not DEFAULT.exists():
            return None
        path = DEFAULT
    found = read(path)
    settings = {name.replace("-", "_"): _with_names_of_today(name, value) for name, value in found.items()}
    if len(settings) < len(found):
        twice = sorted(name for name in found if "-" in name and name.replace("-", "_") in found)
        raise SettingsError(f"{path}: [{twice[0]}] and [{twice[0].replace('-', '_')}] are one table", "TWICE")
    _check_run(path, settings.get("run"))
    commands = _commands(ctx)
    tables = {name for name, value in settings.items() if isinstance(value, dict)}
    for name in sorted(tables):
        if name.replace("_", "-") not in commands:
            raise SettingsError(f"{path}: [{name}] is no stage" + nearest(name, commands), "UNKNOWN_TABLE")
        parameters = {str(parameter.name): parameter for parameter in commands[name.replace("_", "-")].params}
        for key, value in settings[name].items():
            if (name, key) == ("ablate", "arms"):
                _check_arms(path, value, commands)
            elif key not in parameters:
                raise SettingsError(
                    f"{path}: [{name}] has no setting {key!r}" + nearest(key, parameters), "UNKNOWN_KEY"
                )
            else:
                _check_type(f"{path}: [{name}] {key}", value, parameters[key])
                _check_run(path, value if key == "run" else None)
    unknown = settings.keys() - tables - {"run"}
    if unknown:
        key = min(unknown)
        hint = f"; write its settings under [{key}]" if key in commands else nearest(key, {"run", *commands})
        raise SettingsError(f"{path}: {key!r} stands outside a table{hint}", "UNKNOWN_KEY")
    table = str(ctx.info_name).replace("-", "_")
    own = settings[table] if table in tables else {}
    own = {key: value for key, value in own.items() if (table, key) != ("ablate", "arms")}
    shared = {"run": settings["run"]} if not isinstance(settings.get("run", {}), dict) else {}
    ctx.default_map = {**shared, **{key: _flag_value(value) for key, value in own.items()}}
    return path


def _with_names_of_today(table: str, values: Any) -> Any:
    """Rename the setting `queries = true` of version 0.2.0; `queries` is the path of a table now."""
    old, new = "queries", "query_vectors"
    if table.replace("-", "_") != "export_embeddings" or not isinstance(values, dict) or new in values:
        return values
    return {new if key == old and isinstance(value, bool) else key: value for key, value in values.items()}


def place_of(error: Any) -> str:
    """Return the place of a refused value in the settings file, an empty text if it came from a flag."""
    ctx, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    name = str(getattr(parameter, "name", ""))
    if ctx is None or getattr(ctx.get_parameter_source(name), "name", "") != "DEFAULT_MAP":
        return ""
    path = ctx.params["config"]
    settings, title = read(path), str(ctx.info_name)
    for table in (title, title.replace("-", "_")):
        if isinstance(own := settings.get(table), dict) and name in own:
            return f"{path}: [{table}] {name} = {_written(own[name])}"
    return f"{path}: {name} = {_written(settings.get(name))}"


def _written(value: object) -> str:
    """Write a value roughly as the file has it."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}.."


def arms(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the tables [ablate.arms.NAME] of a loaded file: name -> setting -> value."""
    return dict(read(path).get("ablate", {}).get("arms", {})) if path is not None else {}


def _check_arms(path: Path, arms: Any, commands: dict[str, Any]) -> None:
    """Refuse an arm with a setting that neither build-views nor train has, or with one that all arms share."""
    stages = [commands[stage] for stage in ARM_STAGES if stage in commands]
    parameters = {str(parameter.name): parameter for stage in stages for parameter in stage.params}
    for name, changed in arms.items() if isinstance(arms, dict) else [("arms", arms)]:
        if not isinstance(changed, dict) or not ARM_NAME.fullmatch(name):
            text = f"{path}: [ablate.arms] {name} is no arm; write [ablate.arms.NAME], NAME of a-z, 0-9 and -"
            raise SettingsError(text, "BAD_ARM")
        for key, value in changed.items():
            if key not in parameters or key in OF_ABLATE:
                known = parameters.keys() - OF_ABLATE
                text = f"{path}: [ablate.arms.{name}] has no setting {key!r}" + nearest(key, known)
                raise SettingsError(text, "UNKNOWN_KEY")
            _check_type(f"{path}: [ablate.arms.{name}] {key}", value, parameters[key])


def _check_type(where: str, value: Any, parameter: Any) -> None:
    """Refuse a value that a flag would misread: true as 1, 1 as true, a number beyond 64 bits."""
    flag, switch = parameter.opts[0], getattr(parameter, "is_flag", False)  # an argument has none
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool) != switch and isinstance(one, int):
            kind = "true or false" if switch else "neither true nor false"
            raise SettingsError(f"{where} = {str(one).lower()[:40]}: {flag} takes {kind}", "BAD_TYPE")
        if isinstance(one, int) and abs(one) >= 2**63:
            raise SettingsError(f"{where} = {str(one)[:40]}..: {flag} takes at most 64 bits", "BAD_TYPE")


def _check_run(path: Path, run: Any) -> None:
    """Refuse a run folder with `..`: the settings file may come from somebody else."""
    if isinstance(run, bool) or (isinstance(run, str) and (".." in Path(run).parts or "\0" in run)):
        raise SettingsError(f"{path}: run = {run!r} leads out of this folder; to use it, pass it with --run", "RUN")


def read(path: Path) -> dict[str, Any]:
    """Read the file. Raises SettingsError when it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; write one with: ssl-recall init", "NO_CONFIG") from None
    except (ValueError, IsADirectoryError) as error:  # a number of thousands of digits is a ValueError
        hint = "; names with spaces or symbols stand in quotes" if "'=' after a key" in str(error) else ""
        raise SettingsError(f"{path}: {error}{hint}", "BAD_TOML") from None
    except RecursionError:
        raise SettingsError(f"{path}: is nested too deeply", "BAD_TOML") from None


def _flag_value(value: object) -> object:
    """Turn a table into the values of its repeatable flag: {section = "categorical"} -> ["section=categorical"]."""
    if isinstance(value, dict):
        return [f"{name}={setting}" for name, setting in value.items()]
    return value


def _commands(ctx: typer.Context) -> dict[str, Any]:
    root = ctx.find_root().command
    return dict(getattr(root, "commands", {})) or {str(ctx.info_name): root}


def nearest(name: str, known: Any, *, dashes: bool = False) -> str:
    """Return a question that names the most similar known name, an empty text if none is similar."""
    names = [str(k) if dashes else str(k).replace("-", "_") for k in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def flags(name: str, value: object) -> list[str]:
    """Write a setting as flags: hidden, [64, 8] -> --hidden 64 --hidden 8."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [part for one in (value if isinstance(value, list) else [value]) for part in (f"--{dashed}", str(one))]
