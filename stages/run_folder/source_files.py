"""List the user's files that a path names; refuse a path that names none."""

import difflib
from pathlib import Path

from stages.terminal.errors import SettingsError

CSV = (".csv", ".tsv")
SUFFIXES = (".parquet", *CSV)


def files_of(path: Path) -> list[Path]:
    """List the files of a path, sorted: a file, the Parquet and CSV files of a folder, or the matches of a glob.

    Skip names in a folder that begin with a dot or an underscore: a writer's own files (`_temporary`, `.part-0.crc`).
    """
    if path.is_dir():
        inside = ((p, p.relative_to(path).parts) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        return sorted(p for p, parts in inside if p.is_file() and not any(part[0] in "._" for part in parts))
    if path.exists():
        return [path]
    return sorted(p for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))) if p.is_file())


def needed(path: Path, flag: str) -> list[Path]:
    """List a path's files. Raises SettingsError with the most similar name if there are none."""
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
