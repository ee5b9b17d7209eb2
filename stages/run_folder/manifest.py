"""Read and write `manifest.json`: each stage's settings, inputs and outputs, the files by their sha256."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from stages.terminal.errors import ArtifactError

from . import atomic_files, layout
from .layout import MANIFEST, PREVIOUS

SCHEMA = 2  # of the manifest; a newer one is refused, an older one makes every stage stale

Manifest = dict[str, Any]


def read(run: Path) -> Manifest:
    """Read a run folder's manifest; an empty folder has no stages. Raises ArtifactError if it is damaged or newer.

    The manifest holds its own sha256: a flipped bit must not name another file or another setting.
    """
    path = run / MANIFEST
    try:
        descriptor = atomic_files.open_regular(path)
    except FileNotFoundError:
        return {"schema": SCHEMA, "stages": {}}
    except OSError as error:
        raise _bad(run, f"cannot be read ({error.strerror})") from None
    try:
        text = atomic_files.descriptor_path(descriptor).read_bytes()
    finally:
        os.close(descriptor)
    try:
        manifest = json.loads(text)
        schema, whole = manifest["schema"], False
        if type(schema) is int:
            if schema > SCHEMA:
                raise ArtifactError(
                    f"{path}: schema {schema}, this version knows {SCHEMA}; upgrade ssl-recall", "NEWER"
                )
            if schema < SCHEMA:
                return {"schema": schema, "stages": {}}
            whole = text == sealed(manifest) and _whole(manifest["stages"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise _bad(run, "is not what was written")
    for stage, entry in manifest["stages"].items():
        if _release(entry["version"]) > _release(version("ssl-recall")):
            told = f"{path}: {stage} was run by version {entry['version']}, this is {version('ssl-recall')}"
            raise ArtifactError(f"{told}; upgrade ssl-recall", "NEWER")
    return dict(manifest)


def _bad(run: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{run / MANIFEST}: {what}; run: ssl-recall run --force --run {run}", "BAD_MANIFEST")


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Serialise a manifest with the sha256 of its content."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps(rest | {"sha256": digest}, indent=1, sort_keys=True).encode()


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def _whole(stages: Mapping[str, Any]) -> bool:
    """Tell whether every stage has its parts, a text for every hash, and no output that the layout does not name."""
    return all(
        isinstance(entry["settings"], dict)
        and isinstance(entry["version"], str)
        and entry["outputs"]
        and all(name.removeprefix(layout.NO_SSL) in layout.WRITER for name in entry["outputs"])
        and all(isinstance(hashed, str) for hashed in entry["inputs"].values())
        and all(isinstance(output["sha256"], str) for output in entry["outputs"].values())
        for entry in stages.values()
    )


def record(
    run: Path,
    manifest: Manifest,
    stage: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    outputs: Any,
    more: Mapping[str, Any],
) -> None:
    """Publish the manifest with this stage's entry: the last step of a stage.

    `more` is what no stage is stale by: `tables` (source_changes.note), `minutes` (of a training).
    """
    manifest["schema"] = SCHEMA
    manifest["stages"][stage] = {
        "version": version("ssl-recall"),
        "settings": dict(settings),
        "inputs": dict(inputs),
        "outputs": outputs,
    } | {name: value for name, value in more.items() if value not in (None, {})}
    with atomic_files.replacing(run / MANIFEST) as file:
        file.write(sealed(manifest))


def output_of(manifest: Manifest, name: str) -> str | None:
    """Return the sha256 that the manifest has for a file, None if no stage wrote it."""
    for entry in manifest["stages"].values():
        if name in entry["outputs"]:
            return str(entry["outputs"][name]["sha256"])
    return None


def is_whole(run: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether all outputs of a stage are in place and undamaged."""
    return all(
        (run / name).is_file() and atomic_files.sha256(run / name) == output["sha256"]
        for name, output in entry["outputs"].items()
    )


class Held(NamedTuple):
    """An open, verified file."""

    sha256: str
    descriptor: int  # keeps this file even if another one replaces it
    changed: int | None  # its change time, of atomic_files.sha256_and_change_time


def verified(run: Path, manifest: Manifest, name: str, flags: str) -> Held:
    """Open an undamaged file that was made from the current inputs. Raises ArtifactError.

    During an unfinished publication, open the previous file, which the manifest still names.
    """
    path, command = run / name, layout.command_for(name) + flags
    expected = output_of(manifest, name)
    if manifest["schema"] < SCHEMA:
        raise ArtifactError(f"{path}: schema was {manifest['schema']}, now {SCHEMA}; run: {command}", "STALE")
    if expected is None:
        known = "missing" if not path.exists() else f"is not in {run / MANIFEST}, so nobody knows it"
        raise ArtifactError(f"{path}: {known}; run: {command}", "MISSING")
    problem, rule = f"missing; run: {command}", "MISSING"
    for place in (path, run / PREVIOUS / name):
        try:
            descriptor = atomic_files.open_regular(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENXIO, errno.ENOTDIR):
                raise
            problem, rule = f"is no regular file; run: {command}", "CORRUPT"
            continue
        found, changed = atomic_files.sha256_and_change_time(descriptor)
        if found == expected:
            break
        os.close(descriptor)
        if place == path:
            problem, rule = f"not what its stage wrote (sha256 {expected[:8]}.. then, {found[:8]}.. now)", "CORRUPT"
            problem += f"; run: {command}"
    else:
        raise ArtifactError(f"{path}: {problem}", rule)
    other = _outdated(manifest, name, set())
    if other is not None:
        os.close(descriptor)
        raise ArtifactError(f"{path}: written from another {other} than today's; run: {command}", "STALE")
    return Held(expected, descriptor, changed)


def _outdated(manifest: Manifest, name: str, seen: set[str]) -> str | None:
    """Name the input of `name`, direct or indirect, that was written again after `name`; None if there is none."""
    if name in seen:
        return None
    seen.add(name)
    for entry in manifest["stages"].values():
        if name not in entry["outputs"]:
            continue
        for source, hashed in entry["inputs"].items():
            today = output_of(manifest, source)
            if today is not None:
                if today != hashed:
                    return str(source)
                if (further := _outdated(manifest, source, seen)) is not None:
                    return further
    return None
