"""Refuse values that are too large: measure them by the footers and in batches, before a column is decoded.

A file of 2 kB can hold a value of 10 MB that every row repeats. So the limits apply to the decoded rows: the longest
value, the longest list, and the total of a column.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.terminal.errors import InputError

if TYPE_CHECKING:
    import polars as pl


VALUE_BYTES = 65_536  # per text
LIST_LENGTH = 65_536  # values per list, numbers per vector
DISTINCT = 10_000_000  # values per feature
COLUMN_BYTES = 2**32  # all texts of a column together
GROUP_ROWS = 2**27  # per row group, which is read in one piece
GROUP_BYTES = 2**32  # per column of a row group, decompressed
LINE_BYTES = 2**24  # per line of a CSV file
BLOCK = 2**22  # bytes read from a CSV file at a time
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")  # first bytes of gzip, zstd and zlib files
VECTOR = 32 * 4  # bytes per vector of the default width, to estimate the memory of a vocabulary


@dataclass(frozen=True)
class Limits:
    """The limits that the user can set."""

    value_bytes: int = VALUE_BYTES
    list_length: int = LIST_LENGTH
    distinct: int = DISTINCT


def exceeded(frame: "pl.LazyFrame", column: "pl.Expr", dtype: Any, limits: Limits) -> str | None:
    """Describe the value or list of a column that is over a limit, or None. Only the sizes stay in memory."""
    import polars as pl

    measures = {}
    if isinstance(dtype, pl.List | pl.Array):
        measures["list"] = column.list.len().max() if isinstance(dtype, pl.List) else pl.lit(dtype.size)
        column, dtype = column.explode(empty_as_null=True), dtype.inner
        lists = frame.select(**measures).collect(engine="streaming")["list"][0]
        if (lists or 0) > limits.list_length:
            return f"holds a list of {lists:,} values; the limit is --max-list-length {limits.list_length:,}"
    size = _size(column, dtype)
    if size is None:
        return None
    found = frame.select(most=size.max(), all=size.cast(pl.UInt64).sum()).collect(engine="streaming")
    most, together = (value or 0 for value in found.row(0))
    if most > limits.value_bytes:
        return f"holds a value of {most:,} bytes; the limit is --max-value-bytes {limits.value_bytes:,}"
    if together > COLUMN_BYTES:
        return f"holds {together:,} bytes of text; the limit is {COLUMN_BYTES:,}"
    return None


def _size(column: "pl.Expr", dtype: Any) -> "pl.Expr | None":
    """Return the bytes of each value without copying the value to each row; None for types of a fixed size."""
    import polars as pl

    if dtype == pl.String:
        return column.str.len_bytes()
    if dtype == pl.Binary:
        return column.bin.size()
    return column.cat.len_bytes() if dtype in (pl.Categorical, pl.Enum) else None


def too_many(distinct: int, limits: Limits) -> str | None:
    """Describe a vocabulary over the limit with the memory that its vectors need; None below the limit."""
    if distinct <= limits.distinct:
        return None
    room = f"{distinct * VECTOR / 2**30:,.1f} GiB of vectors, and as much again to train them"
    return f"has {distinct:,} distinct values ({room}); the limit is --max-distinct {limits.distinct:,}"


def of_footers(files: Sequence[Path], limits: Limits) -> dict[str, str]:
    """Describe the columns of Parquet files that are too large to measure, by the footers: name -> description.

    A footer may lie; then measuring reads the pages, of at most 2 GiB each.
    """
    import polars as pl
    import pyarrow.parquet as pq

    found: dict[str, str] = {}
    for file in files:
        try:
            metadata, names = pq.read_metadata(file), list(pl.read_parquet_schema(file))
        except (OSError, ValueError, NotImplementedError, pl.exceptions.PolarsError):  # the reader reports it
            continue
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.num_rows > GROUP_ROWS:
                text = (
                    f"{file}: a row group has {group.num_rows:,} rows; the limit is {GROUP_ROWS:,}, write smaller ones"
                )
                raise InputError(text, "LIMIT")
            for chunk in map(group.column, range(group.num_columns)):
                if what := _of_chunk(chunk, limits):
                    path = chunk.path_in_schema  # of a list: name.list.element
                    name = max((n for n in names if f"{path}.".startswith(f"{n}.")), key=len, default=path)
                    found.setdefault(name, f"{what} (in {file.name})")
    return found


def _of_chunk(chunk: Any, limits: Limits) -> str | None:
    """Describe why one column of a row group is too large to measure, or None."""
    values, size = chunk.num_values, chunk.total_uncompressed_size
    width = {"BYTE_ARRAY": 16, "INT32": 4, "FLOAT": 4, "BOOLEAN": 1}.get(chunk.physical_type, 8)
    if chunk.physical_type == "BYTE_ARRAY" and size > (values + 1) * (limits.value_bytes + 8):
        return (
            f"holds values of {size // max(values, 1):,} bytes; the limit is --max-value-bytes {limits.value_bytes:,}"
        )
    if max(size, values * width) > GROUP_BYTES:
        return f"unpacks to {max(size, values * width):,} bytes a row group; the limit is {GROUP_BYTES:,}"
    return None


def hold_lines(file: Path) -> None:
    """Refuse a CSV file with a line over `LINE_BYTES`, or a compressed one. Raises InputError."""
    with file.open("rb") as opened:
        if opened.read(4).startswith(PACKED):  # polars would unpack it whole
            raise InputError(f"{file}: is compressed; unpack it first", "LIMIT")
        opened.seek(0)
        for size in _line_sizes(opened):
            if size > LINE_BYTES:
                raise InputError(f"{file}: a line of over {LINE_BYTES:,} bytes; is this a CSV file?", "LIMIT")


def _line_sizes(opened: Any) -> Iterator[int]:
    """Yield per block the bytes since the last line end, up to the first line end in it, else to its last byte."""
    open_bytes = 0
    while block := opened.read(BLOCK):
        first = block.find(b"\n")
        yield open_bytes + (len(block) if first < 0 else first)
        open_bytes = open_bytes + len(block) if first < 0 else len(block) - block.rfind(b"\n") - 1
