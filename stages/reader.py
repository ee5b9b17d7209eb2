"""Files of a run folder, verified when they are opened and held open: what was hashed is what is read."""

import contextlib
import os
import shlex
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import config as config_file
from . import contract, manifest, publish
from .errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

ATTEMPTS = 100  # of a reader, while others publish


class Reader:
    """Opens files of one run folder, all of one generation, and reads tables from the open files.

    `inputs` are the held files' names with their sha256. Every way to read raises ArtifactError for content that is no
    table, and lets OSError through (exit 5).
    """

    def __init__(self, run: Path, flags: str) -> None:
        """Name the folder, and the flags that a command named in a message needs."""
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
        """Close the files that are held."""
        while self._held:
            os.close(self._held.popitem()[1].descriptor)

    def sha256_now(self, name: str) -> str:
        """Hash a held file again, where its change time does not tell that nobody has written to it."""
        held = self._held[name]
        if held.changed is not None and publish.unchanged_since(held.descriptor, held.changed):
            return held.sha256
        return publish.sha256(self.path(name))

    def has(self, name: str) -> bool:
        """Tell whether an optional input is there."""
        return name in self.inputs

    def descriptor(self, name: str) -> int:
        """Give the open file of an input."""
        assert name in self._held, f"{name} is not among the files that were asked for"
        return self._held[name].descriptor

    def path(self, name: str) -> Path:
        """Give a path of an input as it was verified, whatever stands in its place by now."""
        return publish.path_of(self.descriptor(name))

    def read(self, name: str, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Read an input; the file is opened once."""
        import polars as pl

        with self.path(name).open("rb") as file, self._readable(name):
            return pl.read_parquet(file, columns=list(columns) if columns is not None else None)

    def columns(self, name: str, column: str, rows: int = 2**20) -> "Generator[np.ndarray]":
        """Read one column a batch of rows at a time, the next one while the last is worked on."""
        from ssl_recall.ahead import ahead

        for part in ahead(self.parts(name, [column], rows), 1):
            yield part[column].to_numpy()

    def parts(self, name: str, columns: Sequence[str], rows: int) -> "Iterator[pl.DataFrame]":
        """Read columns of a table at most `rows` rows at a time."""
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
        """Raise ArtifactError where a table lacks a column: an older version wrote it, from what is there today."""
        missing = [column for column in columns if not self.has_column(name, column)]
        if missing:
            command = f"{contract.command_for(name)} --force{self.flags}"
            text = f"{self.run / name}: of an older version, without {', '.join(missing)}; run: {command}"
            raise ArtifactError(text, "OLD")

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


@contextlib.contextmanager
def reading(run: Path, reads: Sequence[str], config: Path | None = None) -> Iterator[Reader]:
    """Check and read a run folder's files without a lock and without writing: all of one generation.

    Where another process publishes meanwhile, what it has just published is read. Raises ArtifactError.
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
    """Give the flags that a command named in a message needs, to do what the one that speaks would do."""
    named = config is not None and config != config_file.DEFAULT
    return (f" --config {shlex.quote(str(config))}" if named else "") + f" --run {shlex.quote(str(run))}"
