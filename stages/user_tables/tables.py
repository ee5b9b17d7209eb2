"""Open the user's tables: Parquet or CSV, one file or many, read a column or a slice at a time."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run_folder import source_files
from stages.terminal.errors import InputError

from .limits import Limits, exceeded, hold_lines, of_footers
from .settings import TABLE_OF, PrepareSettings

if TYPE_CHECKING:
    import polars as pl


PAIR = 8  # bytes per interaction: two row numbers of 4 bytes


@dataclass(frozen=True)
class Table:
    """One of the user's tables: Parquet is read when columns are selected, CSV is in memory."""

    path: Path
    frame: "pl.LazyFrame"
    schema: "pl.Schema"
    raw: "pl.LazyFrame"  # before casts; `too_large` measures it
    large: Mapping[str, str]  # columns too large by their footers -> why
    limits: Limits

    def too_large(self, name: str) -> str | None:
        """Describe the part of a column that is over a limit, or None; call this before reading the column."""
        if name in self.large:
            return self.large[name]
        with self._readable():
            types = self.raw.collect_schema()
            return exceeded(self.raw, self.at(name), types[name], self.limits)

    def select(self, *what: "str | pl.Expr", low: int = 0, rows: int | None = None) -> "pl.DataFrame":
        """Compute columns, or expressions of them, of all rows or a slice. Raises InputError for unreadable files."""
        frame = self.frame.select(self.at(name) if isinstance(name, str) else name for name in what)
        return self.collect(frame if rows is None else frame.slice(low, rows))

    def collect(self, frame: "pl.LazyFrame") -> "pl.DataFrame":
        """Compute a frame derived from `frame` in batches of rows, so that only the result is in memory."""
        with self._readable():
            return frame.collect(engine="streaming")

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        import polars as pl

        try:
            yield
        except (pl.exceptions.PolarsError, ValueError, pl.exceptions.PanicException) as error:
            raise _unreadable(self.path, error) from None

    def at(self, name: str) -> "pl.Expr":
        """Select a column by its position, because `pl.col("*")` would select every column."""
        import polars as pl

        return pl.nth(self.schema.names().index(name))

    def column(self, name: str) -> "pl.Series":
        """Read one column."""
        return self.select(name)[name]

    def with_text(self, name: str) -> "Table":
        """Cast a column to text."""
        import polars as pl

        frame = self.frame.with_columns(pl.col(name).cast(pl.String))
        return self.on(frame)

    def on(self, frame: "pl.LazyFrame") -> "Table":
        """Return the table with a frame derived from `frame`."""
        return replace(self, frame=frame, schema=frame.collect_schema())


def scan(path: Path, flag: str, ids: Sequence[str] = (), most: Limits = Limits()) -> Table:
    """Open Parquet or CSV files as one table. Raises SettingsError for no file, InputError for bad ones.

    CSV has no types, so the values of a column decide its type. Ids that are not all integers stay text, and so do
    integers with leading zeros (01).
    """
    import polars as pl

    files = source_files.needed(path, flag)
    kinds = {source_files.is_csv(file): file for file in files}
    if len(kinds) > 1:
        raise InputError(f"{path}: CSV and Parquet are mixed: {kinds[True]}, {kinds[False]}", "UNREADABLE")
    large = {}
    if not kinds.get(True):
        _same_columns(path, files)
        large = of_footers(files, most)
    try:
        raw = _csv(files, ids).lazy() if kinds.get(True) else pl.scan_parquet(files, glob=False)
        wide = [name for name in ("Int128", "UInt128") if hasattr(pl, name)]  # numpy and Arrow have neither
        frame = raw.with_columns(
            pl.col(pl.Categorical, pl.Enum).cast(pl.String),
            pl.col(*(getattr(pl, name) for name in wide)).cast(pl.Int64),
        )
        return Table(path, frame, frame.collect_schema(), raw, large, most)
    except (pl.exceptions.PolarsError, ValueError, pl.exceptions.PanicException) as error:
        raise _unreadable(path, error) from None


def read(path: Path, flag: str, ids: Sequence[str] = ()) -> "tuple[pl.DataFrame, dict[str, str]]":
    """Read the columns of a table within the limits; return the frame, and the problem of each other column."""
    table = scan(path, flag, ids)
    large = {name: text for name in table.schema if (text := table.too_large(name)) is not None}
    return table.select(*(name for name in table.schema if name not in large)), large


def _csv(files: list[Path], ids: Sequence[str]) -> "pl.DataFrame":
    import polars as pl

    for file in files:
        hold_lines(file)
    separator = _separator(files[0])
    if len(files) > 1:  # a file with only a header would make every column text
        rows = (pl.scan_csv(file, separator=separator, infer_schema=False).head(1).collect().height for file in files)
        files = [file for file, some in zip(files, rows, strict=True) if some] or files[:1]
    frame = pl.scan_csv(files, separator=separator, try_parse_dates=True, infer_schema_length=None).collect()
    doubtful = [c for c, dtype in frame.schema.items() if dtype.is_integer() or (c in ids and dtype != pl.String)]
    as_written = pl.scan_csv(files, separator=separator, infer_schema=False).select(doubtful).collect()
    return frame.with_columns(text for text in as_written if not is_whole(text))


def _same_columns(path: Path, files: list[Path]) -> None:
    """Refuse Parquet files of one table whose columns differ from the first file's. Raises InputError."""
    import polars as pl

    first: dict[str, pl.DataType] = {}
    for file in files:
        try:
            own = dict(pl.read_parquet_schema(file))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(file, error) from None
        first = first or own
        for name in sorted(first.keys() | own.keys()):
            if first.get(name) != own.get(name):
                types = [f"of type {schema[name]}" if name in schema else "missing" for schema in (own, first)]
                raise InputError(
                    f"{path}: {name} is {types[0]} in {file} but {types[1]} in {files[0]}; write them alike",
                    "UNREADABLE",
                )


def _unreadable(path: Path, error: BaseException) -> InputError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if "128`" in first and "failed" in first:  # polars: conversion from `i128` to `i64` failed
        text = f"{path}: holds integers of 128 bits (Int128) that are beyond Int64; write them as text ({first})"
        return InputError(text, "ID_TYPES")
    hint = "; save it as UTF-8" if "utf-8" in first.lower() else ""
    if "PAR1" in first or "magic" in first.lower():
        hint = "; is it cut off, or still being written?"
    return InputError(f"{path}: cannot be read ({first}){hint}", "UNREADABLE")


def _separator(file: Path) -> str:
    """Find the column separator of a CSV file: the most frequent of comma, semicolon and tab in its first line."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline(100_000)
    return max(",;\t", key=first.count)


def is_whole(texts: "pl.Series") -> bool:
    """Tell whether every text is a plainly written integer, so that a cast to integers loses nothing."""
    import polars as pl

    return bool((texts.cast(pl.Int64, strict=False).cast(pl.String) == texts).fill_null(texts.is_null()).all())


def scan_all(paths: dict[str, Path], settings: PrepareSettings) -> dict[str, Table]:
    """Open the tables; if one holds an id as text, cast that id to text in the CSV tables."""
    import polars as pl

    named = {
        side: {"interactions": settings.id_in_log(side), table: settings.id_in_table(side)}
        for side, table in TABLE_OF.items()
    }
    ids = {name: [columns[name] for columns in named.values() if name in columns] for name in paths}
    found = {name: scan(path, f"--{name}", ids[name], settings.limits) for name, path in paths.items()}
    for columns in named.values():
        pair = {name: column for name, column in columns.items() if name in found and column in found[name].schema}
        if any(found[name].schema[column] == pl.String for name, column in pair.items()):
            for name, column in pair.items():
                if source_files.is_csv(paths[name]):
                    found[name] = found[name].with_text(column)
    return found


def least_memory(path: Path) -> float:
    """Return the bytes of the interactions' row numbers, by the rows in the Parquet footers; 0 without a footer."""
    import pyarrow.parquet as pq

    files = [file for file in source_files.files_of(path) if file.suffix == ".parquet"]
    try:
        return float(2 * PAIR * sum(pq.ParquetFile(file).metadata.num_rows for file in files))
    except (OSError, ValueError, NotImplementedError):
        return 0.0  # prepare reports the problem of the file
