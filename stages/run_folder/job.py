"""Run one stage in a run folder: check its inputs, publish its outputs whole, record both in `manifest.json`.

A stage is up to date if its settings and the sha256 of all its inputs and outputs equal those of the manifest. Content
counts, never the time of a file.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from stages.terminal import console
from stages.terminal.errors import ArtifactError, SettingsError, StageError

from . import (
    atomic_files,
    dry_run,
    layout,
    lock,
    manifest,
    memory_floor,
    previous_files,
    reader,
    source_changes,
    source_files,
    staleness,
)

if TYPE_CHECKING:
    import polars as pl


class Job(reader.Reader):
    """One stage at work: it holds the folder's lock, checks its inputs, and publishes its outputs on a clean exit.

    Raises ArtifactError for an input that is missing, damaged, or made from outdated inputs, and LockedError if another
    process works in the folder; lets OSError through (exit 5).
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        recorded: Mapping[str, object],
        *,
        config: Path | None = None,
        reads: Sequence[str] = (),
        optional: Sequence[str] = (),
        writes: Sequence[str] = (),
        sources: Mapping[str, Path] | None = None,
        need: memory_floor.Need | None = None,
        force: bool = False,
    ) -> None:
        """Name the stage, the settings that its manifest entry records, and the files it reads and writes."""
        super().__init__(run, reader.flags_of(run, config))
        self.stage, self.settings = stage, staleness.plain_settings(recorded)
        self.reads, self.optional, self.writes = tuple(reads), tuple(optional), tuple(writes)
        self.sources, self._need, self.force = dict(sources or {}), need, force
        self.up_to_date = False
        self._staged: dict[str, Path] = {}
        self._tables: dict[str, Any] = {}
        self._summary = ""
        self._minutes: int | None = None
        self._then: Callable[[], None] | None = None
        self._started, self._new = 0.0, False
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock, hash the inputs, decide whether the stage must run."""
        if (plan := dry_run.current()) is not None:
            self._note(plan)
            return self
        self._started = time.monotonic()
        ours = self._enter_folder()
        try:
            if ours:  # sweep no folder of somebody else
                atomic_files.sweep(self.run)
            with contextlib.suppress(ArtifactError):  # an unreadable manifest is refused later
                previous_files.settle(self.run, manifest.read(self.run))
            self._decide()
        except BaseException:
            self._leave()
            raise
        return self

    def _enter_folder(self) -> bool:
        """Make the folder if it is missing, lock it, and tell whether it was a run folder before.

        Raises SettingsError, LockedError, ArtifactError.
        """
        if self.run.exists() and not self.run.is_dir():
            raise SettingsError(f"--run {self.run}: is a file; name a folder", "RUN")
        if self.run == Path():
            raise SettingsError("--run: is empty, or the current folder; name a folder of its own", "RUN")
        self._new = not self.run.exists()
        if self.reads and self._new:  # refuse a mistyped --run instead of making it
            self._stale()
        ours = any((self.run / name).exists() for name in (layout.LOCK, layout.MANIFEST))
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = lock.acquire(self.run)
        return ours

    def _decide(self) -> None:
        """Hash the inputs, print why the stage runs, and refuse a stage that cannot finish."""
        self._tables = source_changes.note(self.sources)
        reason = self._stale()
        if not self.sources and (names := source_changes.changed(self.manifest)):
            console.warn(f"{', '.join(names)}: changed since prepare; to prepare again run: ssl-recall run{self.flags}")
        self.up_to_date = reason is None and not self.force
        if self.up_to_date:
            self._line("up to date")
            return
        self._probe()
        if self._need is not None and (self.inputs or self.sources):
            memory_floor.check(self.stage, self._need, self)
        if reason not in (None, "never run"):
            self._line(f"runs again: {reason}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish on a clean exit; on an exception leave the published files as they were."""
        if self._lock is None:
            return
        try:
            if kind is None and not self.up_to_date:
                self._publish()
                if self._then is not None:
                    self._then()
                self._line(f"{self._summary}  {time.monotonic() - self._started:.1f} s")
        finally:
            for temporary in self._staged.values():
                temporary.unlink(missing_ok=True)
            self._leave()

    def _leave(self) -> None:
        """Release the lock; remove the folder if this stage made it and it holds nothing else."""
        assert self._lock is not None
        self.release()
        if self._new and [path.name for path in self.run.iterdir()] == [layout.LOCK]:
            (self.run / layout.LOCK).unlink()
            with contextlib.suppress(OSError):  # another process may have written there
                self.run.rmdir()
        self._lock.close()

    def write_parts(self, name: str, parts: "Iterator[pl.DataFrame]") -> int:
        """Write a table in parts, one row group each, check its columns, and return its number of rows."""
        import pyarrow.parquet as pq

        rows, writer = 0, None
        with self.open(name) as file:
            for part in parts:
                layout.check_columns(name, part.schema)
                batch = part.to_arrow()
                writer = writer or pq.ParquetWriter(file, batch.schema, compression="zstd")
                writer.write_table(batch.cast(writer.schema))
                rows += part.height
            assert writer is not None, f"{name}: no part at all"
            writer.close()
        return rows

    def previous(self, name: str) -> "pl.DataFrame | None":
        """Read this stage's published table, whatever its inputs were; None if it is missing or damaged."""
        import polars as pl

        path, expected = self.run / name, manifest.output_of(self.manifest, name)
        if expected is None or not path.is_file() or atomic_files.sha256(path) != expected:
            return None
        with path.open("rb") as file:
            return pl.read_parquet(file)

    def published(self) -> dict[str, Any] | None:
        """Return the manifest's entry of this stage: version, settings, inputs, outputs; None if it never ran."""
        entry = self.manifest["stages"].get(self.stage)
        return None if entry is None else dict(entry)

    def write(self, name: str, frame: "pl.DataFrame | pl.LazyFrame") -> None:
        """Write a table for publication and check its columns."""
        layout.check_columns(name, frame.collect_schema())
        with self.open(name) as file:
            if hasattr(frame, "sink_parquet"):
                frame.sink_parquet(file, compression="zstd", maintain_order=True)
            else:
                frame.write_parquet(file, compression="zstd")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a temporary file, synced at the end of the block; a clean exit of the job publishes it as `name`."""
        assert name in self.writes, f"{self.stage} does not say that it writes {name}"
        target = self.run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._staged[name] = atomic_files.temporary_for(target)
        with self._staged[name].open("wb") as file:
            yield file
            atomic_files.sync(file)

    def done(self, summary: str, then: Callable[[], None] | None = None, minutes: int | None = None) -> None:
        """Set the line to print after publication, a call to make then under the lock, and minutes to record."""
        self._summary, self._then, self._minutes = summary, then, minutes

    def _probe(self) -> None:
        """Refuse a folder that takes no file, or that has a folder in the place of an output. Raises OSError."""
        for name in self.writes:
            if (self.run / name).is_dir():
                text = "is a folder, where a file is to be written"
                raise IsADirectoryError(errno.EISDIR, text, str(self.run / name))
        for folder in sorted({(self.run / name).parent for name in self.writes}):
            atomic_files.probe(folder)

    def _stale(self) -> str | None:
        self.manifest = self._read_manifest()
        present = [name for name in self.optional if self._is_current(name)]
        self.hold((*self.reads, *present))
        self.inputs |= self._hashed_sources()
        return staleness.stale_reason(
            self.run, self.manifest, self.stage, self.settings, self.inputs, self.writes, self._files()
        )

    def _hashed_sources(self) -> dict[str, str]:
        """Hash the user's own tables."""
        return {name: atomic_files.sha256(file) for name, file in self._files().items()}

    def _files(self) -> dict[str, Path]:
        """Return the files of the user's own tables: `items[0]` is the first of --items."""
        return {
            f"{label}[{number}]": file
            for label, path in self.sources.items()
            for number, file in enumerate(source_files.needed(path, f"--{label}"))
        }

    def _read_manifest(self) -> manifest.Manifest:
        try:
            return manifest.read(self.run)
        except ArtifactError as error:
            if self.force and error.rule == "BAD_MANIFEST":  # the command that the message names
                return {"schema": manifest.SCHEMA, "stages": {}}
            raise

    def _is_current(self, name: str) -> bool:
        """Tell whether an optional input is there and made from the current files; ignore an outdated one."""
        if manifest.output_of(self.manifest, name) is None:
            return False
        if not (self.run / name).exists():
            command = f"{layout.command_for(name)}{self.flags}"
            if not dry_run.is_planning():
                console.warn(f"{self.run / name}: missing, and left out; to write it again run: {command}")
            return False
        try:
            self.hold([name])
        except ArtifactError as error:
            if error.rule == "STALE":
                return False
            raise
        self.release()
        return True

    def _note(self, plan: dry_run.Plan) -> None:
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
            name: {"sha256": atomic_files.sha256(path), "size": path.stat().st_size}
            for name, path in self._staged.items()
        }
        self._check_inputs()
        old = [name for name in self._staged if manifest.output_of(self.manifest, name) and (self.run / name).is_file()]
        with previous_files.undone_by_errors(self.run, old):
            for name, temporary in self._staged.items():
                atomic_files.move_into_place(temporary, self.run / name)
            more = {"tables": self._tables, "minutes": self._minutes}
            manifest.record(self.run, self.manifest, self.stage, self.settings, self.inputs, outputs, more)

    def _check_inputs(self) -> None:
        """Refuse to publish if an input has changed since the stage hashed it. Raises ArtifactError."""
        now = {name: self.sha256_now(name) for name in self._held} | self._hashed_sources()
        changed = [name for name in sorted(now.keys() | self.inputs.keys()) if now.get(name) != self.inputs.get(name)]
        if changed:
            titles = self._files()
            names = ", ".join(str(titles.get(name, name)) for name in changed)
            text = f"{names}: changed while {self.stage} was at work, and nothing was written; run it again"
            raise ArtifactError(text, "CHANGED")

    def _line(self, text: str) -> None:
        console.line(f"{self.stage:<26} {text}")
