"""Find the reason why a stage must run again."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import atomic_files
from .manifest import SCHEMA, Manifest

LONGEST = 40  # characters of a setting in the reason why a stage runs
NAMED = 3  # further changed settings in that reason


def plain_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return settings as JSON holds them, sorted by name."""
    return dict(json.loads(json.dumps(dict(sorted(settings.items())), default=str)))


def _differing(was: object, now: object) -> tuple[object, object]:
    """Reduce two lists to the entries that only one of them has; return all other values unchanged."""
    if not (isinstance(was, list) and isinstance(now, list)):
        return was, now
    apart = [part for part in was if part not in now], [part for part in now if part not in was]
    return apart if any(apart) else (was, now)


def _short(value: object) -> str:
    text = "the default" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


def stale_reason(
    run: Path,
    manifest: Manifest,
    stage: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    writes: Sequence[str],
    titles: Mapping[str, object],
) -> str | None:
    """Return the reason why the stage must run, None if it is up to date.

    `inputs` maps each name to its current sha256; `titles` maps the names of the user's files to their paths.
    """
    entry = manifest["stages"].get(stage)
    if manifest["schema"] < SCHEMA:
        return f"schema was {manifest['schema']}, now {SCHEMA}"
    if entry is None:
        return "never run"
    if entry.get("version") != version("ssl-recall"):
        return f"version was {entry.get('version')}, now {version('ssl-recall')}"
    then, now = entry["settings"], plain_settings(settings)
    changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
    if changed:
        first, *others = changed
        more = f" ({', '.join(others[:NAMED])}{', ..' if others[NAMED:] else ''} changed, too)" if others else ""
        was, is_now = _differing(then.get(first, "not there"), now.get(first, "not there"))
        return f"{first} was {_short(was)}, now {_short(is_now)}{more}"
    for name in sorted(inputs.keys() | entry["inputs"].keys()):
        if inputs.get(name) != entry["inputs"].get(name):
            return f"{titles.get(name, name)} changed"
    for name in writes:
        if not (run / name).exists() or name not in entry["outputs"]:
            return f"{name} is missing"
        if not (run / name).is_file() or atomic_files.sha256(run / name) != entry["outputs"][name]["sha256"]:
            return f"{name} is not what was written"
    return None
