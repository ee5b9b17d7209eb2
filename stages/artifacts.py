"""Run folders: every file is published whole, named in `manifest.json` with its sha256, and checked when it is read.

A stage is up to date when its settings, the sha256 of everything it read and the sha256 of everything it wrote are
those of the manifest: content counts, never the time of a file.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from . import console, contract, generations, manifest, memory, planning, publish, reader, sources, tables_seen
from .errors import ArtifactError, SettingsError, StageError

if TYPE_CHECKING:
    import polars as pl


class Job(reader.Reader):
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
        super().__init__(run, reader.flags_of(run, settings.get("config")))
        self.stage, self.settings = stage, manifest.plain_settings(settings)
        self.reads, self.optional, self.writes = tuple(reads), tuple(optional), tuple(writes)
        self.sources, self.force = dict(sources or {}), force
        self.up_to_date = False
        self._staged: dict[str, Path] = {}
        self._tables: dict[str, Any] = {}
        self._summary = ""
        self._then: Callable[[], None] | None = None
        self._started, self._new = 0.0, False
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock, hash the inputs, decide whether there is anything to do."""
        if (plan := planning.current()) is not None:
            self._note(plan)
            return self
        self._started = time.monotonic()
        ours = self._enter_folder()
        try:
            if ours:  # a folder of somebody else's is not tidied
                publish.sweep(self.run)
            self._settle()
            self._decide()
        except BaseException:
            self._leave()
            raise
        return self

    def _enter_folder(self) -> bool:
        """Make the folder where it is not there, lock it, and tell whether it was a run folder before.

        Raises SettingsError, LockedError, ArtifactError.
        """
        if self.run.exists() and not self.run.is_dir():
            raise SettingsError(f"--run {self.run}: is a file; name a folder", "RUN")
        if self.run == Path():
            raise SettingsError("--run: is empty, or the current folder; name a folder of its own", "RUN")
        self._new = not self.run.exists()
        if self.reads and self._new:  # a mistyped --run is refused, not made
            self._stale()
        ours = any((self.run / name).exists() for name in (publish.LOCK, manifest.NAME))
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = publish.lock(self.run)
        return ours

    def _decide(self) -> None:
        """Hash the inputs, say why the stage runs, and refuse what cannot come to its end."""
        self._tables = tables_seen.note(self.sources)
        reason = self._stale()
        if not self.sources:
            self._warn_of_other_tables()
        self.up_to_date = reason is None and not self.force
        if self.up_to_date:
            self._line("up to date")
            return
        self._probe()
        memory.check(self)
        if reason not in (None, "never run"):
            self._line(f"runs again: {reason}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish on a clean exit, leave everything as it was on any other."""
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

    def _warn_of_other_tables(self) -> None:
        """Say where this stage works on what tables held that have changed since."""
        if names := tables_seen.changed(self.manifest):
            console.warn(f"{', '.join(names)}: changed since prepare; to take that in run: ssl-recall run{self.flags}")

    def _leave(self) -> None:
        """Give the lock back; a folder that was made for this stage and has nothing else in it goes, too."""
        assert self._lock is not None
        self.release()
        if self._new and [path.name for path in self.run.iterdir()] == [publish.LOCK]:
            (self.run / publish.LOCK).unlink()
            with contextlib.suppress(OSError):  # another process may have come meanwhile
                self.run.rmdir()
        self._lock.close()

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

    def done(self, summary: str, then: Callable[[], None] | None = None) -> None:
        """Keep the line that is printed when the files are in place, and what is to be done then, under the lock."""
        self._summary, self._then = summary, then

    def _settle(self) -> None:
        """Undo a publication that did not come to its end; a manifest that nobody can read is said later."""
        with contextlib.suppress(ArtifactError):
            generations.settle(self.run, manifest.read(self.run))

    def _probe(self) -> None:
        """Refuse at once a folder that takes no file, or has a folder in a file's place. Raises OSError."""
        for name in self.writes:
            if (self.run / name).is_dir():
                raise IsADirectoryError(
                    errno.EISDIR, "is a folder, where a file is to be written", str(self.run / name)
                )
        for folder in sorted({(self.run / name).parent for name in self.writes}):
            publish.probe(folder)

    def _stale(self) -> str | None:
        self.manifest = self._read_manifest()
        present = [name for name in self.optional if self._is_current(name)]
        self.hold((*self.reads, *present))
        self.inputs |= self._hashed_sources()
        return manifest.stale_reason(
            self.run, self.manifest, self.stage, self.settings, self.inputs, self.writes, self._files()
        )

    def _hashed_sources(self) -> dict[str, str]:
        """Hash the user's own tables."""
        return {name: publish.sha256(file) for name, file in self._files().items()}

    def _files(self) -> dict[str, Path]:
        """Give the files of the user's own tables: `items[0]` is the first of --items."""
        return {
            f"{label}[{number}]": file
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
            if not planning.is_planning():
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

    def _note(self, plan: planning.Plan) -> None:
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
        old = [name for name in self._staged if manifest.output_of(self.manifest, name) and (self.run / name).is_file()]
        with generations.undone_by_errors(self.run, old):
            for name, temporary in self._staged.items():
                publish.move_into_place(temporary, self.run / name)
            manifest.record(self.run, self.manifest, self.stage, self.settings, self.inputs, outputs, self._tables)

    def _check_inputs(self) -> None:
        """Refuse to publish what was made from files that have changed since. Raises ArtifactError."""
        now = {name: self.sha256_now(name) for name in self._held} | self._hashed_sources()
        changed = [name for name in sorted(now.keys() | self.inputs.keys()) if now.get(name) != self.inputs.get(name)]
        if changed:
            titles = self._files()
            names = ", ".join(str(titles.get(name, name)) for name in changed)
            raise ArtifactError(
                f"{names}: changed while {self.stage} was at work, and nothing was written; run it again",
                "CHANGED",
            )

    def _line(self, text: str) -> None:
        console.line(f"{self.stage:<26} {text}")


def _check_columns(name: str, schema: Mapping[str, object]) -> None:
    columns = contract.CONTRACT[name.removeprefix(contract.NO_SSL)].columns
    optional = {column.strip("[]") for column in columns if column.startswith("[")}
    required = {column for column in columns if column[0] not in "[<"}
    extra = schema.keys() - required - optional
    assert required <= schema.keys(), f"{name}: lacks {sorted(required - schema.keys())}"
    assert not extra or any(column.startswith("<") for column in columns), f"{name}: unnamed columns {sorted(extra)}"
