"""Encode a table of new items or of queries by the vocabularies of the training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_recall.data.codes import CODE, DEFAULT, UNKNOWN, Kind
from stages.options import from_values
from stages.run_folder import layout, reader, source_files
from stages.terminal import console

from . import declarations, feature_columns, id_columns, tables
from .feature_columns import Feature, encode_column
from .problems import Problems, need_column
from .settings import TABLE_OF, PrepareSettings, SideName

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.data.vocabularies import Column


@dataclass(frozen=True)
class Form:
    """The form that `prepare` recorded for the table of a side."""

    side: SideName
    described: SideName  # whose declarations hold: queries without a table have the features of the items
    settings: PrepareSettings
    features: "pl.DataFrame"  # rows of features.parquet

    @property
    def names(self) -> list[str]:
        """Name the feature columns; the id is none of them."""
        return self.features.filter(self.features["kind"] != "id")["feature"].to_list()

    def id_name(self, columns: Sequence[str]) -> str:
        """Name the column of the ids; a table of queries that are items may have the ids of a table of items."""
        own = self.settings.id_in_table(self.side)
        is_id = own in columns and own not in self.names
        return own if is_id or self.side == self.described else self.settings.id_in_table(self.described)


def form_of(job: reader.Reader, side: SideName) -> Form:
    """Read the form of a side's table from the run folder."""
    entry = job.manifest["stages"]["prepare"]
    own = side == "item" or any(name.startswith(f"{TABLE_OF['query']}[") for name in entry["inputs"])
    features = job.read(layout.FEATURES)
    return Form(
        side, side if own else "item", from_values(PrepareSettings, entry["settings"]), features.filter(side=side)
    )


def read(job: reader.Reader, path: Path) -> "tuple[pl.Series, EncodedTable]":
    """Read the ids and the codes of a table of new items. Raises InputError with every problem."""
    form, problems = form_of(job, "item"), Problems(f"--items {path}")
    return encode(job, scan(job, path, form, problems), form, problems)


def scan(job: reader.Reader, path: Path, form: Form, problems: Problems, history: str | None = None) -> tables.Table:
    """Open the table with the types of the training, and check its columns and its ids; extra columns are ignored.

    `history` names a column of lists of ids. Raises InputError at once if a column is missing.
    """
    import polars as pl

    flag, title = f"--{TABLE_OF[form.side]}", f"{form.side}_id"
    table_of = layout.ITEMS if form.side == "item" else layout.QUERIES
    known = job.read(table_of, [title])[title]
    ids_of = {form.settings.id_in_table(side) for side in (form.side, form.described)}
    lists = [] if history is None else [history]
    table = tables.scan(path, flag, [*ids_of, *lists])
    id_name = form.id_name(table.schema.names())
    if source_files.is_csv(path):
        texts = [*lists, *([id_name] if known.dtype == pl.String else [])]  # a CSV file has no types
        for name in table.schema.keys() & set(texts):
            table = table.with_text(name)
    for name in (id_name, *form.names):
        need_column(table.schema, name, "a column named", problems)
    for name in lists:
        need_column(table.schema, name, "--history-column", problems)
    problems.stop_if_any()
    if text := table.too_large(id_name):
        problems.add("LIMIT", f"column {id_name!r} {text}")
        problems.stop_if_any()
    ids = table.column(id_name)
    id_columns.check_ids(ids, f"--{form.side}-id", problems, unique=True)
    if not id_columns.comparable(ids, known):
        where = "in the catalogue" if form.side == "item" else "in the training"
        text = f"{ids.name} is of type {ids.dtype} but {known.dtype} {where}; write it as {known.dtype}"
        problems.add("ID_TYPES", text)
    return _with_missing_vectors(table, form.features)


def encode(job: reader.Reader, table: tables.Table, form: Form, problems: Problems) -> "tuple[pl.Series, EncodedTable]":
    """Encode the ids and the features; return the ids under their artifact name.

    An id without a vector becomes the default; a value outside the vocabulary becomes unknown, and is counted. Raises
    InputError with every problem: repeated or missing ids, numbers that are not finite.
    """
    import polars as pl

    from ssl_recall.data.features import encoded_table
    from ssl_recall.data.vocabularies import clean, encode

    vocabulary = job.read(layout.VOCABULARY)
    words = {str(name): rows for (name,), rows in vocabulary.partition_by("vocabulary", as_dict=True).items()}
    found = {
        name: words.get(shared, vocabulary.clear())
        for name, shared in form.features.select("feature", "vocabulary").iter_rows()
    }
    encoded = []
    for column in _columns(table, form, problems):
        feature = encode_column(table, column, problems, found[column.name])
        encoded += [feature] if feature is not None else []
    _check_widths(encoded, form.features, problems)
    problems.stop_if_any()

    ids = table.column(form.id_name(table.schema.names()))
    title = f"{form.side}_id"
    coded = {title + CODE: encode(ids.cast(pl.String), Kind.ID, found.get(title, vocabulary.clear()))}
    for feature in encoded:
        name = feature.column.name
        coded[name + CODE] = feature.codes
        if feature.column.kind is Kind.DENSE:
            coded[name] = clean(table.column(name), feature.column)
        else:
            _warn_of_unknown(feature, table)
    return ids.alias(title), encoded_table(pl.DataFrame(coded), form.features)


def _with_missing_vectors(table: tables.Table, features: "pl.DataFrame") -> tables.Table:
    """Cast dense columns without a single vector, which may have any type, to the vector width of the training."""
    import polars as pl

    for name, width in features.filter(kind="dense").select("feature", "width").iter_rows():
        if table.too_large(name) is None and table.select(table.at(name).is_not_null().any()).item() in (False, None):
            table = table.on(table.frame.with_columns(pl.lit(None, pl.Array(pl.Float32, width)).alias(name)))
    return table


def _columns(table: tables.Table, form: Form, problems: Problems) -> "list[Column]":
    """Declare every feature with the kind and the options that `prepare` recorded."""
    import polars as pl

    from ssl_recall.data.vocabularies import Column

    settings = form.settings
    given = dict(declarations.split(line) for line in settings.features_of(form.described))
    kinds = form.features.filter(form.features["kind"] != "id").select("feature", "kind")
    declared = [f"{name}={kind}" + (f",{given[name]}" if given.get(name) else "") for name, kind in kinds.iter_rows()]
    id_name = form.id_name(table.schema.names())
    schema = pl.Schema({name: table.schema[name] for name in (id_name, *form.names)})
    defaults = Column("", Kind.CATEGORICAL, settings.min_count, settings.max_values, settings.buckets)
    return feature_columns.columns_of(schema, id_name, declared, f"--{form.side}-feature", defaults, problems)


def _check_widths(encoded: list[Feature], features: "pl.DataFrame", problems: Problems) -> None:
    """Note vectors whose width differs from the training's."""
    widths = dict(features.filter(kind="dense").select("feature", "width").iter_rows())
    for feature in encoded:
        name = feature.column.name
        if name in widths and feature.width != widths[name]:
            text = f"holds vectors of {feature.width} numbers, the model was trained on {widths[name]}"
            problems.add("FEATURE", f"column {name!r} {text}")


def _warn_of_unknown(feature: Feature, table: tables.Table) -> None:
    """Warn of values outside the vocabulary; ask about the spelling if all of them are outside."""
    name, codes = feature.column.name, feature.codes.explode()
    unknown = int((codes == UNKNOWN).sum())
    if not unknown:
        return
    hint = ""
    if unknown == len(codes.drop_nulls()) - int((codes == DEFAULT).sum()):
        examples = table.column(name).drop_nulls().head(3).to_list()
        hint = f"; that is all of them: are they written as in the catalogue? Examples: {examples}"
    console.warn(f"{table.path}: {unknown:,} values of {name} are not in the vocabulary; taken as unknown{hint}")
