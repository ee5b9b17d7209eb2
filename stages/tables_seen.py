"""Whether the user's own tables are still those that the run folder was made from: what a later stage can tell cheaply.

`prepare` notes each file's size and time. Where they are as they were nothing is read; where they are not, the content
decides. It is a warning and no refusal: a stage works on the run folder, which is whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import manifest, publish, sources
from .errors import StageError


def note(tables: Mapping[str, Path]) -> dict[str, Any]:
    """Give what `changed` compares: label -> the path as it was given, and its files' names, sizes and times."""
    return {label: {"path": str(path), "files": _files(label, path)} for label, path in tables.items()}


def changed(told: manifest.Manifest) -> list[str]:
    """Name the tables whose content is another by now; one that is not there, from here, is passed over."""
    found = []
    for entry in told["stages"].values():
        for label, seen in dict(entry.get("tables") or {}).items():
            try:
                now = _files(label, Path(seen["path"]))
                if now != seen["files"] and _hashes(label, Path(seen["path"])) != _of(label, entry["inputs"]):
                    found.append(str(seen["path"]))
            except (StageError, OSError, LookupError, TypeError, ValueError):  # whatever else a manifest may say
                continue
    return found


def _files(label: str, path: Path) -> list[list[Any]]:
    stats = [(file, file.stat()) for file in sources.needed(path, f"--{label}") if file.is_file()]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _hashes(label: str, path: Path) -> list[str]:
    return [publish.sha256(file) for file in sources.needed(path, f"--{label}") if file.is_file()]


def _of(label: str, inputs: Mapping[str, str]) -> list[str]:
    """Give the hashes of a table's files in their order: those of label[0], label[1], ..."""
    return [inputs[name] for number in range(len(inputs)) if (name := f"{label}[{number}]") in inputs]
