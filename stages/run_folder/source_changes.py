"""Tell cheaply whether the user's own tables have changed since the run folder was made from them.

`prepare` notes each file's size and time. If both are the same, the file is not read; if one differs, the content
decides. A change is a warning and no refusal: a stage works on the run folder, which is whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.terminal.errors import StageError

from . import atomic_files, manifest, source_files


def note(tables: Mapping[str, Path]) -> dict[str, Any]:
    """Return the record that `changed` compares: label -> the given path, its files' names, sizes and times."""
    return {label: {"path": str(path), "files": _files(label, path)} for label, path in tables.items()}


def changed(told: manifest.Manifest) -> list[str]:
    """Name the tables whose content has changed; skip a table that cannot be found from here."""
    found = []
    for entry in told["stages"].values():
        for label, seen in dict(entry.get("tables") or {}).items():
            try:
                now = _files(label, Path(seen["path"]))
                if now != seen["files"] and _hashes(label, Path(seen["path"])) != _of(label, entry["inputs"]):
                    found.append(str(seen["path"]))
            except (StageError, OSError, LookupError, TypeError, ValueError):  # or a manifest of another form
                continue
    return found


def _files(label: str, path: Path) -> list[list[Any]]:
    stats = [(file, file.stat()) for file in source_files.needed(path, f"--{label}") if file.is_file()]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _hashes(label: str, path: Path) -> list[str]:
    return [atomic_files.sha256(file) for file in source_files.needed(path, f"--{label}") if file.is_file()]


def _of(label: str, inputs: Mapping[str, str]) -> list[str]:
    """Return the hashes of a table's files in order: label[0], label[1], ..."""
    return [inputs[name] for number in range(len(inputs)) if (name := f"{label}[{number}]") in inputs]
