"""`manifest.json`: what each stage of a run folder wrote, by sha256, from which inputs, with which settings."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from . import contract, publish
from .errors import ArtifactError

NAME = "manifest.json"
ASIDE = ".previous"  # what a publication is about to replace (generations.py)
LONGEST = 40  # characters of a setting in the reason why a stage runs
NAMED = 3  # settings that have changed beside it
SCHEMA = 2  # of the files; a newer one is refused, what an older one tells is stale
_NOT_SETTINGS = {"run", "config", "force", "as_json", "checkpoint_seconds", "strict"}

Manifest = dict[str, Any]


def read(run: Path) -> Manifest:
    """Read what the run folder holds; an empty one has no stages. Raises ArtifactError when it cannot be understood.

    Its own sha256 stands in it: a flipped bit is not to name another file, or a setting that nobody gave.
    """
    path = run / NAME
    try:
        descriptor = publish.held(path)
    except FileNotFoundError:
        return {"schema": SCHEMA, "stages": {}}
    except OSError as error:
        raise _bad(run, f"cannot be read ({error.strerror})") from None
    try:
        text = publish.path_of(descriptor).read_bytes()
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
    return ArtifactError(f"{run / NAME}: {what}; run: ssl-recall run --force --run {run}", "BAD_MANIFEST")


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Write a manifest as its file holds it: with the sha256 of all the rest."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps(rest | {"sha256": digest}, indent=1, sort_keys=True).encode()


def _release(text: str) -> tuple[int, ...]:
    """Give the numbers that a version begins with."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def _whole(stages: Mapping[str, Any]) -> bool:
    """Tell whether every stage has its parts, with a text for every hash, and names files that are ours alone."""
    return all(
        isinstance(entry["settings"], dict)
        and isinstance(entry["version"], str)
        and entry["outputs"]
        and all(name.removeprefix(contract.NO_SSL) in contract.WRITER for name in entry["outputs"])
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
    tables: Mapping[str, Any],
) -> None:
    """Publish the manifest with this stage's entry: the last step of a stage. `tables` is of tables_seen.note."""
    manifest["schema"] = SCHEMA
    manifest["stages"][stage] = {
        "version": version("ssl-recall"),
        "settings": dict(settings),
        "inputs": dict(inputs),
        "outputs": outputs,
    } | ({"tables": dict(tables)} if tables else {})
    with publish.replacing(run / NAME) as file:
        file.write(sealed(manifest))


def plain_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Keep the settings that change a result, as JSON holds them."""
    kept = {name: value for name, value in sorted(settings.items()) if name not in _NOT_SETTINGS}
    return dict(json.loads(json.dumps(kept, default=str)))


def output_of(manifest: Manifest, name: str) -> str | None:
    """Give the sha256 that the manifest has for a file, None where no stage wrote it."""
    for entry in manifest["stages"].values():
        if name in entry["outputs"]:
            return str(entry["outputs"][name]["sha256"])
    return None


def is_whole(run: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether everything that a stage wrote stands in its place as it was written."""
    return all(
        (run / name).is_file() and publish.sha256(run / name) == output["sha256"]
        for name, output in entry["outputs"].items()
    )


class Held(NamedTuple):
    """An open file as it was verified."""

    sha256: str
    descriptor: int  # which stays that file, whatever is put in its place
    changed: int | None  # its change time, of publish.sha256_and_change_time


def verified(run: Path, manifest: Manifest, name: str, flags: str) -> Held:
    """Open a file that is its stage's and of today's inputs.


    Where a publication has not come to its end, that is the file which it was about to replace. Raises ArtifactError.
    """
    path, command = run / name, contract.command_for(name) + flags
    expected = output_of(manifest, name)
    if manifest["schema"] < SCHEMA:
        raise ArtifactError(f"{path}: schema was {manifest['schema']}, now {SCHEMA}; run: {command}", "STALE")
    if expected is None:
        known = "missing" if not path.exists() else f"is not in {run / NAME}, so nobody knows it"
        raise ArtifactError(f"{path}: {known}; run: {command}", "MISSING")
    problem, rule = f"missing; run: {command}", "MISSING"
    for place in (path, run / ASIDE / name):
        try:
            descriptor = publish.held(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENXIO, errno.ENOTDIR):
                raise
            problem, rule = f"is no regular file; run: {command}", "CORRUPT"
            continue
        found, changed = publish.sha256_and_change_time(descriptor)
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
    """Name the file, here or further up, that has been written again since `name` was made from it."""
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


def _differing(was: object, now: object) -> tuple[object, object]:
    """Of two lists keep what is not in both, where that tells them apart."""
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
    """Say in words why the stage must run, None when it is up to date.

    `inputs` are name -> sha256 now, `titles` what to call those that are files of the user's.
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
        if not (run / name).is_file() or publish.sha256(run / name) != entry["outputs"][name]["sha256"]:
            return f"{name} is not what was written"
    return None
