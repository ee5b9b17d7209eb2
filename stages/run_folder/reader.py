"""Read files of a run folder: verify each when it is opened, and keep it open, so that the hashed bytes are read."""

import contextlib
import os
import shlex
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.terminal import settings_file
from stages.terminal.errors import ArtifactError

from . import atomic_files, layout, manifest

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


ATTEMPTS = 100  # to open one generation while other processes publish


class Reader:
    """Open files of one run folder, all of one generation, and read tables from the open files.

    `inputs` maps the open files' names to their sha256. Every read raises ArtifactError for content that is no table,
    and lets OSError through (exit 5).
    """

    def __init__(self, run: Path, flags: str) -> None:
        """Set the folder, and the flags that the commands in messages need."""
        self.run, self.flags = run, flags
        self.manifest: manifest.Manifest = {"schema": manifest.SCHEMA, "stages": {}}
        self.inputs: dict[str, str] = {}
        self._held: dict[str, manifest.Held] = {}

    def hold(self, names: Sequence[str]) -> None:
        """Verify files and keep them open, all or none. Raises ArtifactError."""
        self.release()
        try:
            for name in names:
                self._held[name] = manifest.verified(self.run, self.manifest, name, self.flags)
                self.inputs[name] = self._held[name].sha256
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Close all open files."""
        while self._held:
            os.close(self._held.popitem()[1].descriptor)

    def sha256_now(self, name: str) -> str:
        """Return an open file's sha256; hash it again unless its change time proves that nobody wrote to it."""
        held = self._held[name]
        if held.changed is not None and atomic_files.unchanged_since(held.descriptor, held.changed):
            return held.sha256
        return atomic_files.sha256(self.path(name))

    def has(self, name: str) -> bool:
        """Tell whether an optional input is there."""
        return name in self.inputs

    def descriptor(self, name: str) -> int:
        """Return the descriptor of an input's open file."""
        assert name in self._held, f"{name} is not among the files that were asked for"
        return self._held[name].descriptor

    def path(self, name: str) -> Path:
        """Return a path to the verified file of an input, even if another file has replaced it."""
        return atomic_files.descriptor_path(self.descriptor(name))

    def read(self, name: str, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Read an input from its verified file."""
        import polars as pl

        with self.path(name).open("rb") as file, self._readable(name):
            return pl.read_parquet(file, columns=list(columns) if columns is not None else None)

    def columns(self, name: str, column: str, rows: int = 2**20) -> "Generator[np.ndarray]":
        """Yield one column in batches of rows; read the next batch while the caller works on the last."""
        from ssl_recall.kernels.prefetch import prefetch

        for part in prefetch(self.parts(name, [column], rows), 1):
            yield part[column].to_numpy()

    def parts(self, name: str, columns: Sequence[str], rows: int) -> "Iterator[pl.DataFrame]":
        """Yield columns of a table, at most `rows` rows at a time."""
        import polars as pl
        import pyarrow.parquet as pq

        self.need(name, columns)
        with self.path(name).open("rb") as file:
            with self._readable(name):
                batches = pq.ParquetFile(file).iter_batches(rows, columns=list(columns))
            while True:
                with self._readable(name):
                    batch = next(batches, None)
                if batch is None:
                    return
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame), "a batch is a frame"
                yield frame.select(columns)

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
        """Raise ArtifactError if a table lacks a column: an older version wrote it, from the current inputs."""
        missing = [column for column in columns if not self.has_column(name, column)]
        if missing:
            command = f"{layout.command_for(name)} --force{self.flags}"
            text = f"{self.run / name}: of an older version, without {', '.join(missing)}; run: {command}"
            raise ArtifactError(text, "OLD")

    @contextlib.contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Turn an error about a verified file's content into an ArtifactError with its command."""
        import polars as pl

        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # of the disk; pyarrow's error about content has no number
                raise
            text = f"{self.run / name}: is no table ({(str(error).splitlines() or [''])[0]})"
            raise ArtifactError(f"{text}; run: {layout.command_for(name)}{self.flags} --force", "CORRUPT") from None


@contextlib.contextmanager
def reading(run: Path, reads: Sequence[str], config: Path | None = None) -> Iterator[Reader]:
    """Check and read a run folder's files, all of one generation, without a lock and without writing.

    If another process publishes meanwhile, read its new files. Raises ArtifactError.
    """
    reader = Reader(run, flags_of(run, config))
    for attempt in range(ATTEMPTS):
        reader.manifest = manifest.read(run)
        try:
            reader.hold(reads)
            break
        except ArtifactError:
            time.sleep(0.01 * min(attempt, 10))
            if attempt == ATTEMPTS - 1 or (attempt and manifest.read(run) == reader.manifest):
                raise
    try:
        yield reader
    finally:
        reader.release()


def flags_of(run: Path, config: object) -> str:
    """Return the flags that make a command in a message use the same settings file and run folder."""
    named = config is not None and config != settings_file.DEFAULT
    return (f" --config {shlex.quote(str(config))}" if named else "") + f" --run {shlex.quote(str(run))}"
