"""Run folders: every file is published whole, named in `manifest.json` with its sha256, and checked when it is read.

A stage is up to date when its settings, the sha256 of everything it read and the sha256 of everything it wrote are
those of the manifest: content counts, never the time of a file.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Self

import typer

from . import config as config_file
from . import console, contract
from .errors import ArtifactError, LockedError

if TYPE_CHECKING:
    import polars as pl

DEFAULT_RUN = Path("runs/default")
RunOption = Annotated[Path, typer.Option("--run", help="Run folder: everything is read from and written to it.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file; flags win over it. [default: ssl-recall.toml, where there is one]",
        is_eager=True,
        callback=config_file.load,
        show_default=False,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Run even when up to date.")]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1  # of the files; a newer one is refused
_NOT_SETTINGS = {"run", "config", "force", "ctx", "as_json"}


@dataclass
class Plan:
    """What `status` collects in place of work: every stage with the reason to run it, None where it is up to date."""

    stages: list[tuple[str, str | None]] = field(default_factory=list)
    to_be_written: dict[str, str] = field(default_factory=dict)  # file -> the stage that is to run first


_plan: ContextVar[Plan | None] = ContextVar("_plan", default=None)


@contextlib.contextmanager
def planning() -> Iterator[Plan]:
    """Within this block a Job writes nothing, takes no lock, and only notes whether it would run."""
    plan = Plan()
    token = _plan.set(plan)
    try:
        yield plan
    finally:
        _plan.reset(token)


def is_planning() -> bool:
    """Tell whether a `planning` block is open, in which a stage shows nothing."""
    return _plan.get() is not None


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files(path: Path | str) -> list[Path]:
    """List what a user's path names: a file, the Parquet and CSV files of a folder, or a glob; sorted."""
    path = Path(path)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix in {".parquet", ".csv"})
    if path.exists():
        return [path]
    return sorted(p for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))) if p.is_file())


def read_manifest(run: Path) -> dict[str, Any]:
    """Read what the run folder holds; an empty one has no stages. Raises ArtifactError when it cannot be understood."""
    path = run / MANIFEST
    if not path.exists():
        return {"schema": SCHEMA_VERSION, "stages": {}}
    try:
        manifest = json.loads(path.read_text())
        schema, _ = int(manifest["schema"]), manifest["stages"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{path}: is no manifest; run: ssl-recall run --force", "BAD_MANIFEST") from None
    if schema > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema {schema}, this version knows {SCHEMA_VERSION}; upgrade ssl-recall", "NEWER"
        )
    return dict(manifest)


def plain_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Keep the settings that change a result, as JSON holds them."""
    kept = {name: value for name, value in sorted(settings.items()) if name not in _NOT_SETTINGS}
    return dict(json.loads(json.dumps(kept, default=str)))


def stale_reason(
    run: Path,
    stage: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, str],
    writes: Sequence[str],
) -> str | None:
    """Say in words why the stage must run, None when it is up to date; `inputs` are name -> sha256 now."""
    entry = read_manifest(run)["stages"].get(stage)
    if entry is None:
        return "never run"
    now = plain_settings(settings)
    changed = [
        name for name in sorted(now.keys() | entry["settings"].keys()) if now.get(name) != entry["settings"].get(name)
    ]
    if changed:
        name = changed[0]
        return f"{name} was {entry['settings'].get(name)}, now {now.get(name)}" + (
            f" (and {len(changed) - 1} more)" if changed[1:] else ""
        )
    for name in sorted(inputs.keys() | entry["inputs"].keys()):
        if inputs.get(name) != entry["inputs"].get(name):
            return f"{name} changed"
    for name in writes:
        if not (run / name).exists():
            return f"{name} is missing"
        if sha256(run / name) != entry["outputs"][name]["sha256"]:
            return f"{name} is not what was written"
    return None


class Job:
    """One stage at work: holds the folder's lock, checks what it reads, publishes what it wrote on a clean exit.

    Raises ArtifactError for an input that is missing or is not what its stage wrote, LockedError when another process
    works in the folder, and lets OSError through (the command line maps it to exit 5).
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        settings: Mapping[str, object],
        *,
        reads: Sequence[str] = (),
        optional: Sequence[str] = (),
        writes: Sequence[str] = (),
        sources: Mapping[str, Path] | None = None,
        force: bool = False,
    ) -> None:
        """Name the stage, its settings (usually `locals()`), and the files it reads and writes."""
        self.run, self.stage, self.settings = run, stage, plain_settings(settings)
        self.reads, self.optional, self.writes = tuple(reads), tuple(optional), tuple(writes)
        self.sources, self.force = dict(sources or {}), force
        self.inputs: dict[str, str] = {}
        self.up_to_date = False
        self._staged: dict[str, Path] = {}
        self._summary = ""
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock, hash the inputs, decide whether there is anything to do."""
        plan = _plan.get()
        if plan is not None:
            self._note(plan)
            return self
        self._started = time.monotonic()
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.run)
        try:
            reason = self._stale()
            self.up_to_date = reason is None and not self.force
            if self.up_to_date:
                self._line("up to date")
            elif reason not in (None, "never run"):
                self._line(f"runs again: {reason}")
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish on a clean exit, leave everything as it was on any other."""
        if self._lock is None:
            return
        try:
            if kind is None and not self.up_to_date:
                self._publish()
                self._line(f"{self._summary}  {time.monotonic() - self._started:.1f} s")
        finally:
            for temporary in self._staged.values():
                temporary.unlink(missing_ok=True)
            self._lock.close()

    def has(self, name: str) -> bool:
        """Tell whether an optional input is there."""
        return name in self.inputs

    def path(self, name: str) -> Path:
        """Give the path of an input that was verified when the job began."""
        assert name in self.inputs, f"{self.stage} does not say that it reads {name}"
        return self.run / name

    def read(self, name: str, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Read an input; the file is opened once."""
        import polars as pl

        with self.path(name).open("rb") as file:
            return pl.read_parquet(file, columns=list(columns) if columns is not None else None)

    def scan(self, name: str) -> "pl.LazyFrame":
        """Scan an input lazily."""
        import polars as pl

        return pl.scan_parquet(self.path(name))

    def write(self, name: str, frame: "pl.DataFrame | pl.LazyFrame") -> None:
        """Stage a table for publication, held to the contract's columns."""
        _check_columns(name, frame.collect_schema())
        with self.open(name) as file:
            if hasattr(frame, "sink_parquet"):
                frame.sink_parquet(file, compression="zstd", maintain_order=True)
            else:
                frame.write_parquet(file, compression="zstd")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Stage a file for publication: written beside its place, synced, and moved there on a clean exit."""
        assert name in self.writes, f"{self.stage} does not say that it writes {name}"
        target = self.run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        self._staged[name] = temporary
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def done(self, summary: str) -> None:
        """Keep the one line that is printed when the files are in place."""
        self._summary = summary

    def _stale(self) -> str | None:
        self.manifest = read_manifest(self.run)
        present = [name for name in self.optional if _entry(self.manifest, name) and (self.run / name).exists()]
        self.inputs = {name: self._verified(name) for name in (*self.reads, *present)}
        for label, path in self.sources.items():
            for number, file in enumerate(source_files(path)):
                self.inputs[f"{label}[{number}]"] = sha256(file)
        return stale_reason(self.run, self.stage, self.settings, self.inputs, self.writes)

    def _note(self, plan: Plan) -> None:
        waits = [plan.to_be_written[name] for name in (*self.reads, *self.optional) if name in plan.to_be_written]
        try:
            reason = f"after {waits[0]}" if waits else self._stale()
        except ArtifactError as error:
            reason = str(error)
        plan.stages.append((self.stage, reason))
        if reason is not None:
            plan.to_be_written |= dict.fromkeys(self.writes, self.stage)
        self.up_to_date = True

    def _verified(self, name: str) -> str:
        path, entry = self.run / name, _entry(self.manifest, name)
        if entry is None or not path.exists():
            raise ArtifactError(f"{path}: missing; run: {contract.command_for(name)} --run {self.run}", "MISSING")
        found = sha256(path)
        if found != entry["sha256"]:
            raise ArtifactError(
                f"{path}: not what its stage wrote (sha256 {entry['sha256'][:8]}.. then, {found[:8]}.. now); "
                f"run: {contract.command_for(name)} --run {self.run}",
                "CORRUPT",
            )
        return found

    def _publish(self) -> None:
        missing = set(self.writes) - self._staged.keys()
        assert not missing, f"{self.stage} wrote no {sorted(missing)}"
        outputs = {name: {"sha256": sha256(path), "size": path.stat().st_size} for name, path in self._staged.items()}
        for name, temporary in self._staged.items():
            temporary.replace(self.run / name)
            _sync_folder((self.run / name).parent)
        self.manifest["stages"][self.stage] = {
            "version": version("ssl-recall"),
            "settings": self.settings,
            "inputs": self.inputs,
            "outputs": outputs,
        }
        with replacing(self.run / MANIFEST) as file:
            file.write(json.dumps(self.manifest, indent=1, sort_keys=True).encode())

    def _line(self, text: str) -> None:
        console.err.print(f"{self.stage:<26} {text}", soft_wrap=True)


@contextlib.contextmanager
def reading(run: Path, reads: Sequence[str]) -> Iterator[Job]:
    """Check and read a run folder's files without publishing anything in it."""
    job = Job(run, "read", {}, reads=reads)
    job.manifest = read_manifest(run)
    job.inputs = {name: job._verified(name) for name in reads}
    yield job


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, sync it, and move it there when the block ends without an exception."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _entry(manifest: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    for stage in manifest["stages"].values():
        if name in stage["outputs"]:
            return dict(stage["outputs"][name])
    return None


def _lock(run: Path) -> IO[str]:
    file = (run / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise LockedError(f"{run}: in use by {holder}; wait for it or stop it", "LOCKED") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_columns(name: str, schema: Mapping[str, object]) -> None:
    columns = contract.CONTRACT[name.removeprefix(contract.NO_SSL)].columns
    optional = {column.strip("[]") for column in columns if column.startswith("[")}
    required = {column for column in columns if column[0] not in "[<"}
    extra = schema.keys() - required - optional
    assert required <= schema.keys(), f"{name}: lacks {sorted(required - schema.keys())}"
    assert not extra or any(column.startswith("<") for column in columns), f"{name}: unnamed columns {sorted(extra)}"
