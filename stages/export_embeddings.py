"""Embed the whole catalogue, or new items that training never saw, and the queries."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import artifacts, console, contract, models, new_items, options, processor, publish, reader, sources
from .errors import NumberError, SettingsError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from ssl_recall.towers import TwoTower

READS = (
    "features.parquet",
    "vocabulary.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
)
PART = 2**17  # items embedded, and written as a row group, at a time
MODEL = ("model/weights.safetensors", "model/model.json")


def export_embeddings(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    ssl: Annotated[bool, typer.Option(help="--no-ssl exports the model in RUN/no-ssl/.")] = True,
    queries: Annotated[bool, typer.Option(help="Export the query vectors too; evaluate needs them.")] = True,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Embed the items of this table in place of the catalogue, new ones by the default id vector."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the vectors of --items go (a Parquet file).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Processor threads; another number changes the last digits.")
    ] = 1,
    force: options.ForceOption = False,
) -> None:
    """Write unit vectors: item_id, embedding for every item, query_id, embedding for every query.

    Reads model/, the encoded tables, and the interactions up to the test period (a query's history); writes
    item_embeddings.parquet and query_embeddings.parquet. Nearest by cosine (= dot product) is best.
    """
    settings = {name: value for name, value in locals().items() if name not in {"items", "output"}}
    folder = "" if ssl else contract.NO_SSL
    writes = (f"{folder}item_embeddings.parquet", *([f"{folder}query_embeddings.parquet"] if queries else []))
    reads = (*READS, *(folder + name for name in MODEL))
    stage = "export-embeddings" if ssl else "export-embeddings --no-ssl"
    if output is not None and items is None:
        raise SettingsError(
            "--output is where the vectors of --items go; the catalogue's go to the run folder", "OUTPUT"
        )
    if items is not None:
        target = output or run / f"{folder}new_item_embeddings.parquet"
        _refuse_to_overwrite(target, items, run)
        publish.probe(target.parent)
        with reader.reading(run, reads, config) as job:
            _export_new(job, folder, items, target, device, threads)
        return
    with artifacts.Job(run, stage, settings, reads=reads, writes=writes, force=force) as job:
        if job.up_to_date:
            return
        place = models.device_of(device)
        processor.use(threads, place)
        model, shape = models.load(job, folder, *models.outlines(job))
        model.to(place)
        count = job.write_parts(writes[0], _item_vectors(job, model))
        summary = f"{count:,} items"
        if queries:
            asked = _query_vectors(job, model, shape["history"])
            job.write(writes[1], asked)
            summary += f", {asked.height:,} queries"
        job.done(f"{summary}, width {shape['width']}")


def _item_vectors(job: reader.Reader, model: "TwoTower") -> "Iterator[pl.DataFrame]":
    """Embed the catalogue PART rows at a time, so that memory does not grow with it."""
    from ssl_recall import features, training

    place = model.embeddings.weight.device
    described = job.read("features.parquet").filter(side="item")
    for part in job.parts("items.parquet", ["item_id", *models.columns_of(described)], PART):
        vectors = training.embed_items(model, features.encoded_table(part, described).to(place))
        yield _frame(part.select("item_id"), vectors)


def _query_vectors(job: reader.Reader, model: "TwoTower", history: int) -> "pl.DataFrame":
    """Embed every query as it stands before the test period."""
    from ssl_recall import training

    place, described = model.embeddings.weight.device, job.read("features.parquet")
    queries = models.table(job, "queries.parquet", described.filter(side="query")).to(place)
    items = log = None
    if history:
        items = models.table(job, "items.parquet", described.filter(side="item")).to(place)
        log = models.log_before_test(job, queries.rows).to(place)
    vectors = training.embed_queries(model, queries, log, items, history)
    return _frame(job.read("queries.parquet", ["query_id"]), vectors)


def _refuse_to_overwrite(target: Path, items: Path, run: Path) -> None:
    """Keep the vectors of new items off the table they are of, and off the files of the run folder."""
    if target.suffix != ".parquet":
        raise SettingsError(
            f"--output {target}: the vectors are written as Parquet; end the name in .parquet", "OUTPUT"
        )
    if target.resolve() in {file.resolve() for file in sources.files_of(items)}:
        raise SettingsError(f"--output {target}: is the table of --items; give another name", "OUTPUT")
    if any(
        target.resolve() == (run / part / name).resolve() for part in ("", contract.NO_SSL) for name in contract.WRITER
    ):
        raise SettingsError(f"--output {target}: is a file of the run folder; give another name", "OUTPUT")


def _export_new(job: reader.Reader, folder: str, source: Path, target: Path, device: str, threads: int) -> None:
    """Embed a user's table of items with the trained model and publish the vectors where the user wants them."""
    from ssl_recall import training

    place = models.device_of(device)
    processor.use(threads, place)
    model, _ = models.load(job, folder, *models.outlines(job))
    ids, table = new_items.read(job, source)
    vectors = training.embed_items(model.to(place), table.to(place))
    with publish.replacing(target) as file:
        _frame(ids.to_frame(), vectors).write_parquet(file, compression="zstd")
    console.line(f"{'export-embeddings':<26} {len(ids):,} items of {source} to {target}")


def _frame(ids: "pl.DataFrame", vectors: "Tensor") -> "pl.DataFrame":
    """Lay vectors out beside their ids; a vector that is no number is not published."""
    import polars as pl

    bad = int((~vectors.isfinite()).any(1).sum())
    if bad:
        raise NumberError(
            f"{bad:,} of {len(vectors):,} vectors are not finite; run: ssl-recall train --force", "NON_FINITE"
        )
    array = vectors.cpu().numpy()
    return ids.with_columns(embedding=pl.Series(array, dtype=pl.Array(pl.Float32, array.shape[1])))
