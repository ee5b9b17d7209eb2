"""The user's files: what a path names, and what to say when it names none."""

import difflib
from pathlib import Path

from .errors import SettingsError

CSV = (".csv", ".tsv")
SUFFIXES = (".parquet", *CSV)


def files_of(path: Path) -> list[Path]:
    """List what a path names: a file, the Parquet and CSV files of a folder, or those of a glob; sorted.

    What begins with a dot or an underscore in a folder is a writer's own (`_temporary`, `.part-0.crc`), and no data.
    """
    if path.is_dir():
        inside = ((p, p.relative_to(path).parts) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        return sorted(p for p, parts in inside if p.is_file() and not any(part[0] in "._" for part in parts))
    if path.exists():
        return [path]
    return sorted(p for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))) if p.is_file())


def needed(path: Path, flag: str) -> list[Path]:
    """List a path's files. Raises SettingsError where there are none, with the nearest name that is there."""
    files = files_of(path)
    if not files:
        raise SettingsError(f"{flag} {path}: no Parquet or CSV file there{_near(path)}", "NO_FILE")
    return files


def is_csv(path: Path) -> bool:
    """Tell whether a path names CSV files."""
    return all(file.suffix.lower() in CSV for file in files_of(path))


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p != path], n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
