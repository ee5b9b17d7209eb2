"""Keep the previous files in `.previous/` until the manifest names the new ones, so that a kill can be undone.

Replacing the manifest publishes. Before that the previous files count: readers take them from `.previous/` if the new
ones are already in place. After it the new files count, and `.previous/` only has to be removed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from . import atomic_files, layout, manifest


@contextlib.contextmanager
def undone_by_errors(run: Path, names: Sequence[str]) -> Iterator[None]:
    """Let the block replace the files and the manifest; on an exception put the previous ones back."""
    first = not (run / layout.MANIFEST).exists()
    try:
        set_aside(run, names if first else [layout.MANIFEST, *names])
        yield
    except BaseException:
        _undo(run, first=first)
        raise
    forget(run)


def set_aside(run: Path, names: Iterable[str]) -> None:
    """Link files into layout.PREVIOUS; copy them if the file system has no hard links."""
    for name in names:
        target = run / layout.PREVIOUS / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link((run / name).resolve(), target)
        except OSError:
            with atomic_files.replacing(target) as copy, (run / name).open("rb") as file:
                shutil.copyfileobj(file, copy)
        else:
            atomic_files.sync_folder(target.parent)


def settle(run: Path, told: manifest.Manifest) -> None:
    """Put back the previous files that the manifest still names, remove the others; call it under the lock."""
    for path in _found(run):
        name = path.relative_to(run / layout.PREVIOUS).as_posix()
        place = run / name
        if atomic_files.sha256(path) == manifest.output_of(told, name) and not _same(path, place):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            atomic_files.sync_folder(place.parent)
    forget(run)


def _undo(run: Path, *, first: bool) -> None:
    """Put back all previous files, the manifest first: after a kill, `settle` does the rest."""
    if first:
        (run / layout.MANIFEST).unlink(missing_ok=True)
    places = {path: run / path.relative_to(run / layout.PREVIOUS) for path in _found(run)}
    for path in sorted(places, key=lambda path: path.name != layout.MANIFEST):
        path.replace(places[path])
    for folder in {place.parent for place in places.values()}:
        atomic_files.sync_folder(folder)
    forget(run)


def forget(run: Path) -> None:
    """Remove the previous files; of a link remove only the link."""
    aside = run / layout.PREVIOUS
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


def _found(run: Path) -> Iterator[Path]:
    """List the previous files, only regular ones: we write no others, and opening a pipe would block."""
    if (run / layout.PREVIOUS).is_symlink():
        return
    for folder, _, files in os.walk(run / layout.PREVIOUS):
        paths = (Path(folder) / file for file in files)
        yield from (path for path in paths if _is_ours(path))


def _is_ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not atomic_files.TEMPORARY.match(path.name)


def _same(path: Path, place: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.samefile(place) or (place.is_file() and atomic_files.sha256(place) == atomic_files.sha256(path))
    return False
