"""`manifest.json`: what each stage of a run folder wrote, by sha256, from which inputs, with which settings."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import contract
from .errors import ArtifactError
from .publish import replacing, sha256

NAME = "manifest.json"
LONGEST = 40  # characters of a setting in the reason why a stage runs
SCHEMA = 1  # of the files; a newer one is refused
_NOT_SETTINGS = {"run", "config", "force", "as_json", "checkpoint_seconds", "strict"}

Manifest = dict[str, Any]


def read(run: Path) -> Manifest:
    """Read what the run folder holds; an empty one has no stages. Raises ArtifactError when it cannot be understood."""
    path = run / NAME
    if not path.exists():
        return {"schema": SCHEMA, "stages": {}}
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
        whole = type(schema) is int and _whole(manifest["stages"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ArtifactError(f"{path}: is no manifest; run: ssl-recall run --force --run {run}", "BAD_MANIFEST")
    if schema > SCHEMA:
        raise ArtifactError(f"{path}: schema {schema}, this version knows {SCHEMA}; upgrade ssl-recall", "NEWER")
    return dict(manifest)


def _whole(stages: Mapping[str, Any]) -> bool:
    """Tell whether every stage has its parts, with a text for every hash."""
    return all(
        isinstance(entry["settings"], dict)
        and entry["outputs"]
        and all(isinstance(hashed, str) for hashed in entry["inputs"].values())
        and all(isinstance(output["sha256"], str) for output in entry["outputs"].values())
        for entry in stages.values()
    )


def record(
    run: Path, manifest: Manifest, stage: str, settings: Mapping[str, object], inputs: Mapping[str, str], outputs: Any
) -> None:
    """Publish the manifest with this stage's entry: the last step of a stage."""
    manifest["stages"][stage] = {
        "version": version("ssl-recall"),
        "settings": dict(settings),
        "inputs": dict(inputs),
        "outputs": outputs,
    }
    with replacing(run / NAME) as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())


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


def verified(run: Path, manifest: Manifest, name: str, flags: str) -> str:
    """Give a file's sha256, which is its stage's and of today's inputs. Raises ArtifactError when it is not."""
    path, command = run / name, contract.command_for(name) + flags
    expected = output_of(manifest, name)
    if not path.exists():
        raise ArtifactError(f"{path}: missing; run: {command}", "MISSING")
    if expected is None:
        raise ArtifactError(f"{path}: is not in {run / NAME}, so nobody knows it; run: {command}", "MISSING")
    found = sha256(path)
    if found != expected:
        raise ArtifactError(
            f"{path}: not what its stage wrote (sha256 {expected[:8]}.. then, {found[:8]}.. now); run: {command}",
            "CORRUPT",
        )
    other = _outdated(manifest, name)
    if other is not None:
        raise ArtifactError(f"{path}: written from another {other} than today's; run: {command}", "STALE")
    return found


def _outdated(manifest: Manifest, name: str) -> str | None:
    """Name the file, here or further up, that has been written again since `name` was made from it."""
    for entry in manifest["stages"].values():
        if name not in entry["outputs"]:
            continue
        for source, hashed in entry["inputs"].items():
            today = output_of(manifest, source)
            if today is not None:
                if today != hashed:
                    return str(source)
                if (further := _outdated(manifest, source)) is not None:
                    return further
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


def stale_reason(
    run: Path,
    manifest: Manifest,
    stage: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    writes: Sequence[str],
) -> str | None:
    """Say in words why the stage must run, None when it is up to date; `inputs` are name -> sha256 now."""
    entry = manifest["stages"].get(stage)
    if entry is None:
        return "never run"
    if entry.get("version") != version("ssl-recall"):
        return f"version was {entry.get('version')}, now {version('ssl-recall')}"
    then, now = entry["settings"], plain_settings(settings)
    changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
    if changed:
        name, more = changed[0], f" (and {len(changed) - 1} more)" if changed[1:] else ""
        return f"{name} was {_short(then.get(name))}, now {_short(now.get(name))}{more}"
    for name in sorted(inputs.keys() | entry["inputs"].keys()):
        if inputs.get(name) != entry["inputs"].get(name):
            return f"{name} changed"
    for name in writes:
        if not (run / name).exists() or name not in entry["outputs"]:
            return f"{name} is missing"
        if sha256(run / name) != entry["outputs"][name]["sha256"]:
            return f"{name} is not what was written"
    return None
