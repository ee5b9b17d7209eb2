"""What a stage is about to replace stands aside until the manifest names the new files: a killed publication is undone.

The manifest is the moment: before it is replaced the old files count, which a reader finds here where the new ones are
in their places already; after it the new ones do, and what stands aside is only to be removed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from . import manifest, publish

FOLDER = manifest.ASIDE


@contextlib.contextmanager
def undone_by_errors(run: Path, names: Sequence[str]) -> Iterator[None]:
    """Within this block the files and the manifest may be replaced; an exception puts back what was there."""
    first = not (run / manifest.NAME).exists()
    try:
        set_aside(run, names if first else [manifest.NAME, *names])
        yield
    except BaseException:
        _undo(run, first=first)
        raise
    forget(run)


def set_aside(run: Path, names: Iterable[str]) -> None:
    """Give files a second name, in FOLDER; where the file system has no hard links, a copy."""
    for name in names:
        target = run / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link((run / name).resolve(), target)
        except OSError:
            with publish.replacing(target) as copy, (run / name).open("rb") as file:
                shutil.copyfileobj(file, copy)
        else:
            publish.sync_folder(target.parent)


def settle(run: Path, told: manifest.Manifest) -> None:
    """Put back what the manifest still names, and forget what it does not; call it under the lock."""
    for path in _found(run):
        name = path.relative_to(run / FOLDER).as_posix()
        place = run / name
        if publish.sha256(path) == manifest.output_of(told, name) and not _same(path, place):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            publish.sync_folder(place.parent)
    forget(run)


def _undo(run: Path, *, first: bool) -> None:
    """Put back all that stands aside, the manifest first: killed meanwhile, `settle` comes to the same end."""
    if first:
        (run / manifest.NAME).unlink(missing_ok=True)
    places = {path: run / path.relative_to(run / FOLDER) for path in _found(run)}
    for path in sorted(places, key=lambda path: path.name != manifest.NAME):
        path.replace(places[path])
    for folder in {place.parent for place in places.values()}:
        publish.sync_folder(folder)
    forget(run)


def forget(run: Path) -> None:
    """Remove what stands aside; a link goes, and what it points to stays."""
    aside = run / FOLDER
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


def _found(run: Path) -> Iterator[Path]:
    """List the regular files that stand aside: nothing else is ours, and a pipe would be waited for."""
    if (run / FOLDER).is_symlink():
        return
    for folder, _, files in os.walk(run / FOLDER):
        paths = (Path(folder) / file for file in files)
        yield from (path for path in paths if _is_ours(path))


def _is_ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not publish.TEMPORARY.match(path.name)


def _same(path: Path, place: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.samefile(place) or (place.is_file() and publish.sha256(place) == publish.sha256(path))
    return False
