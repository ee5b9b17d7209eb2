"""Embed the whole catalogue and the queries, or a table of new items or new queries."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.learning import hardware, memory_needs, model_files, training_inputs
from stages.run_folder import atomic_files, layout, reader, source_files
from stages.run_folder.memory_floor import Need
from stages.terminal import console
from stages.terminal.errors import NumberError, SettingsError
from stages.user_tables import new_queries, new_rows

from .options import StageFolder, no_result, recorded, recorded_as

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from ssl_recall.towers import TwoTower


READS = (
    layout.FEATURES,
    layout.VOCABULARY,
    layout.ITEMS,
    layout.QUERIES,
    layout.TRAIN,
    layout.VALIDATION,
)
PART = 2**17  # items embedded at a time and written as one row group
MODEL = (layout.WEIGHTS, layout.MODEL)
VECTORS, NEW_ROWS, MACHINE = "Vectors", "New items and queries", "Machine"


@dataclass(frozen=True)
class ExportSettings:
    """Every flag of `export-embeddings` but the run folder's."""

    ssl: Annotated[
        bool, Option(help="Export the model with SSL; --no-ssl: the one in RUN/no-ssl/.", rich_help_panel=VECTORS)
    ] = True
    query_vectors: Annotated[
        bool, Option(help="Also export the query vectors, which evaluate needs.", rich_help_panel=VECTORS)
    ] = recorded_as("queries", True)
    items: Annotated[
        Path | None,
        Option(
            help="Embed the items of this table instead of the catalogue; new items have the default id vector.",
            rich_help_panel=NEW_ROWS,
        ),
    ] = no_result(None)
    queries: Annotated[
        Path | None,
        Option(
            help="Embed the queries of this table instead of the catalogue: people who came after the training.",
            rich_help_panel=NEW_ROWS,
        ),
    ] = no_result(None)
    history_column: Annotated[
        str,
        Option(
            help="Column of --queries: the list of the item ids that a query took, the oldest first; in CSV they are "
            "joined by a vertical bar.",
            rich_help_panel=NEW_ROWS,
        ),
    ] = no_result("history")
    output: Annotated[
        Path | None, Option(help="Parquet file for the vectors of --items or --queries.", rich_help_panel=NEW_ROWS)
    ] = no_result(None)
    device: Annotated[str, Option(help="Device: auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)] = "auto"
    threads: Annotated[
        int,
        Option(
            min=1,
            max=1024,
            help="Processor threads; the number changes the last digits of the result.",
            rich_help_panel=MACHINE,
        ),
    ] = 1


def export_embeddings(folder: StageFolder, settings: ExportSettings) -> None:
    """Write a unit vector for every item (item_id, embedding) and every query (query_id, embedding).

    Reads model/, features, vocabulary, items, queries, and the histories in train and validation. Writes
    item_embeddings.parquet and query_embeddings.parquet. The best item has the highest cosine, the dot product here.
    """
    part = "" if settings.ssl else layout.NO_SSL
    reads = (*READS, *(part + name for name in MODEL))
    writes = (part + layout.ITEM_EMBEDDINGS, *([part + layout.QUERY_EMBEDDINGS] if settings.query_vectors else []))
    if (new := _new_table(settings, folder.run / part)) is not None:
        source, target, flag = new
        _refuse_to_overwrite(target, source, flag, folder.run)
        atomic_files.probe(target.parent)
        with reader.reading(folder.run, reads, folder.config) as run:
            _export_new(run, part, source, target, settings)
        return
    stage = "export-embeddings" if settings.ssl else "export-embeddings --no-ssl"
    need = Need(partial(memory_needs.of_export, weights=part + layout.WEIGHTS), torch=True)
    with folder.job(stage, recorded(settings), reads=reads, writes=writes, need=need) as job:
        if job.up_to_date:
            return
        place = hardware.device_of(settings.device)
        hardware.use(settings.threads, place)
        model, shape = model_files.load(job, part, *training_inputs.first_rows(job))
        model.to(place)
        count = job.write_parts(writes[0], _item_vectors(job, model))
        summary = f"{count:,} items"
        if settings.query_vectors:
            asked = _query_vectors(job, model, shape.history)
            job.write(writes[1], asked)
            summary += f", {asked.height:,} queries"
        job.done(f"{summary}, width {shape.width}")


def _item_vectors(job: reader.Reader, model: "TwoTower") -> "Iterator[pl.DataFrame]":
    """Embed the catalogue PART rows at a time, so that memory does not grow with the catalogue."""
    from ssl_recall.data import features
    from ssl_recall.embedding import embed_items

    place = model.embeddings.weight.device
    described = job.read(layout.FEATURES).filter(side="item")
    for part in job.parts(layout.ITEMS, ["item_id", *training_inputs.columns_of(described)], PART):
        vectors = embed_items(model, features.encoded_table(part, described).to(place))
        yield _frame(part.select("item_id"), vectors)


def _query_vectors(job: reader.Reader, model: "TwoTower", history: int) -> "pl.DataFrame":
    """Embed every query, with its history before the test period."""
    import torch

    from ssl_recall.data.histories import so_far
    from ssl_recall.embedding import embed_queries

    place, described = model.embeddings.weight.device, job.read(layout.FEATURES)
    queries = training_inputs.encoded_side(job, layout.QUERIES, described.filter(side="query")).to(place)
    items = histories = None
    if history:
        items = training_inputs.encoded_side(job, layout.ITEMS, described.filter(side="item")).to(place)
        log = training_inputs.interactions_before_test(job, queries.rows).to(place)
        histories = so_far(log, torch.arange(queries.rows, device=place), history)
    vectors = embed_queries(model, queries, None, histories, items)
    return _frame(job.read(layout.QUERIES, ["query_id"]), vectors)


def _new_query_vectors(job: reader.Reader, model: "TwoTower", asked: new_queries.NewQueries) -> "Tensor":
    """Embed new queries, with the items that they took if the model has a history."""
    from ssl_recall.embedding import embed_queries

    place = model.embeddings.weight.device
    if asked.histories is None:
        return embed_queries(model, asked.table.to(place))
    items = training_inputs.encoded_side(job, layout.ITEMS, job.read(layout.FEATURES).filter(side="item"))
    return embed_queries(model, asked.table.to(place), None, asked.histories.to(place), items.to(place))


def _new_table(settings: ExportSettings, folder: Path) -> tuple[Path, Path, str] | None:
    """Return the table of --items or --queries, the file for its vectors, and the flag; None without a table."""
    if settings.items is not None and settings.queries is not None:
        raise SettingsError("--items and --queries: a call embeds one table; make two calls", "USAGE")
    if settings.items is not None:
        return settings.items, settings.output or folder / layout.NEW_ITEM_EMBEDDINGS, "--items"
    if settings.queries is not None:
        return settings.queries, settings.output or folder / layout.NEW_QUERY_EMBEDDINGS, "--queries"
    if settings.output is not None:
        text = "--output needs --items or --queries: the vectors of the catalogue go to the run folder"
        raise SettingsError(text, "OUTPUT")
    return None


def _refuse_to_overwrite(target: Path, source: Path, flag: str, run: Path) -> None:
    """Refuse an --output that is the table of `flag`, a file of the run folder, or not Parquet."""
    if target.suffix != ".parquet":
        raise SettingsError(
            f"--output {target}: the vectors are written as Parquet; end the name in .parquet", "OUTPUT"
        )
    if target.resolve() in {file.resolve() for file in source_files.files_of(source)}:
        raise SettingsError(f"--output {target}: is the table of {flag}; give another name", "OUTPUT")
    if any(target.resolve() == (run / part / name).resolve() for part in ("", layout.NO_SSL) for name in layout.WRITER):
        raise SettingsError(f"--output {target}: is a file of the run folder; give another name", "OUTPUT")


def _export_new(job: reader.Reader, part: str, source: Path, target: Path, settings: ExportSettings) -> None:
    """Embed the items or the queries of the table `source` with the trained model; publish the vectors as `target`."""
    from ssl_recall.embedding import embed_items

    place = hardware.device_of(settings.device)
    hardware.use(settings.threads, place)
    model, shape = model_files.load(job, part, *training_inputs.first_rows(job))
    model.to(place)
    if settings.queries is None:
        ids, table = new_rows.read(job, source)
        vectors = embed_items(model, table.to(place))
    else:
        asked = new_queries.read(job, source, settings.history_column, shape.history)
        ids, vectors = asked.ids, _new_query_vectors(job, model, asked)
    with atomic_files.replacing(target) as file:
        _frame(ids.to_frame(), vectors).write_parquet(file, compression="zstd")
    named = "items" if settings.queries is None else "queries"
    console.line(f"{'export-embeddings':<26} {len(ids):,} {named} of {source} to {target}")


def _frame(ids: "pl.DataFrame", vectors: "Tensor") -> "pl.DataFrame":
    """Return the ids with their vectors. Raises NumberError if a vector is not finite."""
    import polars as pl

    bad = int((~vectors.isfinite()).any(1).sum())
    if bad:
        raise NumberError(
            f"{bad:,} of {len(vectors):,} vectors are not finite; run: ssl-recall train --force", "NON_FINITE"
        )
    array = vectors.cpu().numpy()
    return ids.with_columns(embedding=pl.Series(array, dtype=pl.Array(pl.Float32, array.shape[1])))
