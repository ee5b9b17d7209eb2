"""Run folders: every file is published whole, named in `manifest.json` with its sha256, and checked when it is read.

A stage is up to date when its settings, the sha256 of everything it read and the sha256 of everything it wrote are
those of the manifest: content counts, never the time of a file.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Self

import typer

from . import config as config_file
from . import console, contract, generations, manifest, memory, publish, sources
from .errors import ArtifactError, SettingsError, StageError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

ATTEMPTS = 100  # of a reader, while others publish
DEFAULT_RUN = Path("runs/default")
RunOption = Annotated[
    Path,
    typer.Option(
        "--run", help="Run folder: everything is read from and written to it.", callback=config_file.own_folder
    ),
]
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


class Job:
    """One stage at work: holds the folder's lock, checks what it reads, publishes what it wrote on a clean exit.

    Raises ArtifactError for an input that is missing, is not what its stage wrote, or was made from other inputs than
    today's, LockedError when another process works in the folder, and lets OSError through (exit 5).
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
        self.run, self.stage, self.settings = run, stage, manifest.plain_settings(settings)
        self.reads, self.optional, self.writes = tuple(reads), tuple(optional), tuple(writes)
        self.sources, self.force = dict(sources or {}), force
        self.flags = flags_of(run, settings.get("config"))
        self.inputs: dict[str, str] = {}
        self.manifest: manifest.Manifest = {"stages": {}}
        self.up_to_date = False
        self._staged: dict[str, Path] = {}
        self._held: dict[str, int] = {}  # descriptors of the inputs, which stay what was verified
        self._summary = ""
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock, hash the inputs, decide whether there is anything to do."""
        plan = _plan.get()
        if plan is not None:
            self._note(plan)
            return self
        self._started = time.monotonic()
        if self.run.exists() and not self.run.is_dir():
            raise SettingsError(f"--run {self.run}: is a file; name a folder", "RUN")
        if self.run == Path():
            raise SettingsError("--run: is empty, or the current folder; name a folder of its own", "RUN")
        if self.reads and not self.run.exists():  # a mistyped --run is refused, not made
            self._stale()
        self._new = not self.run.exists()
        ours = any((self.run / name).exists() for name in (publish.LOCK, manifest.NAME))
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = publish.lock(self.run)
        try:
            if ours:  # a folder of somebody else's is not tidied
                publish.sweep(self.run)
            self._settle()
            reason = self._stale()
            self.up_to_date = reason is None and not self.force
            if not self.up_to_date:
                self._probe()
                memory.check(self)
            if self.up_to_date:
                self._line("up to date")
            elif reason not in (None, "never run"):
                self._line(f"runs again: {reason}")
        except BaseException:
            self._leave()
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
            self._leave()

    def _leave(self) -> None:
        """Give the lock back; a folder that was made for this stage and has nothing else in it goes, too."""
        assert self._lock is not None
        self.release()
        if self._new and [path.name for path in self.run.iterdir()] == [publish.LOCK]:
            (self.run / publish.LOCK).unlink()
            with contextlib.suppress(OSError):  # another process may have come meanwhile
                self.run.rmdir()
        self._lock.close()

    def hold(self, names: Sequence[str]) -> None:
        """Verify files and keep them open, all or none. Raises ArtifactError."""
        self.release()
        try:
            for name in names:
                self.inputs[name], self._held[name] = manifest.verified(self.run, self.manifest, name, self.flags)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Close the files that are held."""
        while self._held:
            os.close(self._held.popitem()[1])

    def has(self, name: str) -> bool:
        """Tell whether an optional input is there."""
        return name in self.inputs

    def descriptor(self, name: str) -> int:
        """Give the open file of an input."""
        assert name in self._held, f"{self.stage} does not say that it reads {name}"
        return self._held[name]

    def path(self, name: str) -> Path:
        """Give a path of an input as it was verified, whatever stands in its place by now."""
        return publish.path_of(self.descriptor(name))

    def read(self, name: str, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Read an input; the file is opened once."""
        import polars as pl

        with self.path(name).open("rb") as file, self._readable(name):
            return pl.read_parquet(file, columns=list(columns) if columns is not None else None)

    def columns(self, name: str, column: str, rows: int = 2**20) -> "Iterator[np.ndarray]":
        """Read one column a batch of rows at a time."""
        import pyarrow.parquet as pq

        with self.path(name).open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(rows, columns=[column]):
                yield batch.column(0).to_numpy()

    def parts(self, name: str, columns: Sequence[str], rows: int) -> "Iterator[pl.DataFrame]":
        """Read columns of a table at most `rows` rows at a time."""
        import polars as pl
        import pyarrow.parquet as pq

        self.need(name, columns)
        with self.path(name).open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(rows, columns=list(columns)):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame), "a batch is a frame"
                yield frame.select(columns)

    def write_parts(self, name: str, parts: "Iterator[pl.DataFrame]") -> int:
        """Stage a table that comes in parts, a row group each, held to the contract's columns; gives its rows."""
        import pyarrow.parquet as pq

        rows, writer = 0, None
        with self.open(name) as file:
            for part in parts:
                _check_columns(name, part.schema)
                batch = part.to_arrow()
                writer = writer or pq.ParquetWriter(file, batch.schema, compression="zstd")
                writer.write_table(batch.cast(writer.schema))
                rows += part.height
            assert writer is not None, f"{name}: no part at all"
            writer.close()
        return rows

    def rows(self, name: str) -> int:
        """Count a table's rows, from its footer."""
        import pyarrow.parquet as pq

        with self.path(name).open("rb") as file, self._readable(name):
            return int(pq.ParquetFile(file).metadata.num_rows)

    def has_column(self, name: str, column: str) -> bool:
        """Tell whether a table has a column, from its footer."""
        import pyarrow.parquet as pq

        with self.path(name).open("rb") as file, self._readable(name):
            return column in pq.ParquetFile(file).schema_arrow.names

    def need(self, name: str, columns: Sequence[str]) -> None:
        """Raise ArtifactError where a table lacks a column: an older version wrote it, from what is there today."""
        missing = [column for column in columns if not self.has_column(name, column)]
        if missing:
            command = f"{contract.command_for(name)} --force{self.flags}"
            text = f"{self.run / name}: of an older version, without {', '.join(missing)}; run: {command}"
            raise ArtifactError(text, "OLD")

    def previous(self, name: str) -> "pl.DataFrame | None":
        """Read what this stage wrote the last time, made from whatever; nothing where it is not there whole."""
        import polars as pl

        path, expected = self.run / name, manifest.output_of(self.manifest, name)
        if expected is None or not path.is_file() or publish.sha256(path) != expected:
            return None
        with path.open("rb") as file:
            return pl.read_parquet(file)

    def published(self) -> dict[str, Any] | None:
        """Give what the manifest says of this stage's last run: version, settings, inputs, outputs."""
        entry = self.manifest["stages"].get(self.stage)
        return None if entry is None else dict(entry)

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
        self._staged[name] = publish.temporary_for(target)
        with self._staged[name].open("wb") as file:
            yield file
            publish.sync(file)

    def done(self, summary: str) -> None:
        """Keep the one line that is printed when the files are in place."""
        self._summary = summary

    @contextlib.contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Say of a file that is what was written, and no table, whose it is."""
        import polars as pl

        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # the disk's own; pyarrow's about content has no number
                raise
            text = f"{self.run / name}: is no table ({(str(error).splitlines() or [''])[0]})"
            raise ArtifactError(f"{text}; run: {contract.command_for(name)}{self.flags} --force", "CORRUPT") from None

    def _settle(self) -> None:
        """Undo a publication that did not come to its end; a manifest that nobody can read is said later."""
        with contextlib.suppress(ArtifactError):
            generations.settle(self.run, manifest.read(self.run))

    def _probe(self) -> None:
        """Refuse at once a folder that takes no file. Raises OSError."""
        for folder in sorted({(self.run / name).parent for name in self.writes}):
            publish.probe(folder)

    def _stale(self) -> str | None:
        self.manifest = self._read_manifest()
        present = [name for name in self.optional if self._is_current(name)]
        self.hold((*self.reads, *present))
        self.inputs |= self._hashed_sources()
        return manifest.stale_reason(self.run, self.manifest, self.stage, self.settings, self.inputs, self.writes)

    def _hashed_sources(self) -> dict[str, str]:
        """Hash the user's own tables."""
        return {
            f"{label}[{number}]": publish.sha256(file)
            for label, path in self.sources.items()
            for number, file in enumerate(sources.needed(path, f"--{label}"))
        }

    def _read_manifest(self) -> manifest.Manifest:
        try:
            return manifest.read(self.run)
        except ArtifactError as error:
            if self.force and error.rule == "BAD_MANIFEST":  # the way out that the message names
                return {"schema": manifest.SCHEMA, "stages": {}}
            raise

    def _is_current(self, name: str) -> bool:
        """Tell whether an optional input is there and belongs to today's files; a yesterday's one is passed over."""
        if manifest.output_of(self.manifest, name) is None:
            return False
        if not (self.run / name).exists():
            command = f"{contract.command_for(name)}{self.flags}"
            if not is_planning():
                console.warn(f"{self.run / name}: missing, and left out; to have it again run: {command}")
            return False
        try:
            self.hold([name])
        except ArtifactError as error:
            if error.rule == "STALE":
                return False
            raise
        self.release()
        return True

    def _note(self, plan: Plan) -> None:
        waits = [plan.to_be_written[name] for name in (*self.reads, *self.optional) if name in plan.to_be_written]
        try:
            reason = f"after {waits[0]}" if waits else self._stale()
        except StageError as error:
            reason = str(error)
        finally:
            self.release()
        plan.stages.append((self.stage, reason))
        if reason is not None:
            plan.to_be_written |= dict.fromkeys(self.writes, self.stage)
        self.up_to_date = True

    def _publish(self) -> None:
        missing = set(self.writes) - self._staged.keys()
        assert not missing, f"{self.stage} wrote no {sorted(missing)}"
        outputs = {
            name: {"sha256": publish.sha256(path), "size": path.stat().st_size} for name, path in self._staged.items()
        }
        self._check_inputs()
        before = manifest.read(self.run) if self.published() else None
        old = [
            name for name in self._staged if before and manifest.output_of(before, name) and (self.run / name).is_file()
        ]
        try:
            generations.set_aside(self.run, old)
            for name, temporary in self._staged.items():
                publish.move_into_place(temporary, self.run / name)
            manifest.record(self.run, self.manifest, self.stage, self.settings, self.inputs, outputs)
        except BaseException:
            self._settle()
            raise
        generations.forget(self.run)

    def _check_inputs(self) -> None:
        """Refuse to publish what was made from files that have changed since. Raises ArtifactError."""
        now = {name: publish.sha256(self.path(name)) for name in self._held} | self._hashed_sources()
        changed = [name for name in sorted(now.keys() | self.inputs.keys()) if now.get(name) != self.inputs.get(name)]
        if changed:
            raise ArtifactError(
                f"{', '.join(changed)}: changed while {self.stage} was at work, and nothing was written; run it again",
                "CHANGED",
            )

    def _line(self, text: str) -> None:
        console.line(f"{self.stage:<26} {text}")


@contextlib.contextmanager
def reading(run: Path, reads: Sequence[str], config: Path | None = None) -> Iterator[Job]:
    """Check and read a run folder's files without publishing anything in it: all of one generation.

    Where another process publishes meanwhile, what it has just published is read.
    """
    job = Job(run, "read", {"config": config}, reads=reads)
    for attempt in range(ATTEMPTS):
        job.manifest = manifest.read(run)
        try:
            job.hold(reads)
            break
        except ArtifactError:
            time.sleep(0.01 * min(attempt, 10))
            if attempt == ATTEMPTS - 1 or (attempt and manifest.read(run) == job.manifest):
                raise
    try:
        yield job
    finally:
        job.release()


def flags_of(run: Path, config: object) -> str:
    """Give the flags that a command named in a message needs, to do what the one that speaks would do."""
    named = config is not None and config != config_file.DEFAULT
    return (f" --config {config}" if named else "") + f" --run {run}"


def _check_columns(name: str, schema: Mapping[str, object]) -> None:
    columns = contract.CONTRACT[name.removeprefix(contract.NO_SSL)].columns
    optional = {column.strip("[]") for column in columns if column.startswith("[")}
    required = {column for column in columns if column[0] not in "[<"}
    extra = schema.keys() - required - optional
    assert required <= schema.keys(), f"{name}: lacks {sorted(required - schema.keys())}"
    assert not extra or any(column.startswith("<") for column in columns), f"{name}: unnamed columns {sorted(extra)}"
