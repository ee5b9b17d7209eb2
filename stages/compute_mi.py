"""Measure the mutual information of every two item features."""

import os
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ssl_recall.data.codes import CODE
from stages.learning import memory_needs
from stages.run_folder import layout, reader
from stages.run_folder.memory_floor import Need
from stages.terminal import console

from .options import StageFolder, no_result, recorded

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table
    from rich.text import Text

    from ssl_recall.mutual_information import Pair


READS = (layout.ITEMS, layout.FEATURES)
WRITES = (layout.MUTUAL_INFORMATION,)
WIDEST = 16  # most features of a heat table, to fit a terminal; with more, the strongest pairs are listed
LISTED = 20  # most pairs, or warnings of one kind
MEASURE, MACHINE = "Measure", "Machine"


class IdRole(StrEnum):
    """Treatment of the item id: left out, or measured like any other feature."""

    EXCLUDE = "exclude"
    INCLUDE = "include"


@dataclass(frozen=True)
class InformationSettings:
    """Every flag of `compute-mi` but the run folder's."""

    id: Annotated[
        IdRole,
        Option(
            help="Whether the item id is a feature: unique, so its plug-in MI with f is H(f), its corrected MI is 0.",
            rich_help_panel=MEASURE,
        ),
    ] = IdRole.EXCLUDE
    shuffles: Annotated[
        int, Option(min=1, help="Permutations; the chance level is the mean over them.", rich_help_panel=MEASURE)
    ] = 1
    seed: Annotated[int, Option(min=0, max=2**62, help="Seed of the permutations.", rich_help_panel=MEASURE)] = 1
    threads: Annotated[
        int,
        Option(min=0, max=1024, help="Pairs measured at a time; 0: one per core.", rich_help_panel=MACHINE),
    ] = no_result(0)
    buckets: Annotated[
        int,
        Option(
            min=0,
            max=10_000,
            help="Parts in which a pair of many values is counted; 0: chosen by the memory.",
            rich_help_panel=MACHINE,
        ),
    ] = no_result(0)


def compute_mi(folder: StageFolder, settings: InformationSettings) -> None:
    """Compute the mutual information of every pair of item features, in nats over the catalogue.

    Reads items.parquet and features.parquet. Writes mutual_information.parquet: for every ordered pair the plug-in MI,
    its chance level (the MI with the rows of one feature shuffled), the MI above chance, the normalised MI (the share
    of the possible MI above chance: 0 is chance, 1 is the most), both entropies and both numbers of values. Prints the
    normalised MI as a table. A pair of two unchanged features is not measured again; --force measures all pairs.
    """
    need = Need(memory_needs.of_catalogue)
    with folder.job("compute-mi", recorded(settings), reads=READS, writes=WRITES, need=need) as job:
        if job.up_to_date:
            return
        import polars as pl

        from ssl_recall import mutual_information

        frame = _codes(job, with_id=settings.id is IdRole.INCLUDE)
        codes = {name: mutual_information.codes_of(frame[name]) for name in frame.columns}
        prints = {
            name: mutual_information.fingerprint(column, settings.seed, settings.shuffles)
            for name, column in codes.items()
        }
        known = None if folder.force else job.previous(layout.MUTUAL_INFORMATION)
        pairs, entropies = _known(known, prints)
        done = {frozenset((pair.feature_a, pair.feature_b)) for pair in pairs}
        todo = [pair for pair in combinations_with_replacement(codes, 2) if frozenset(pair) not in done]
        with console.progress("compute-mi", len(todo), "pairs") as advance:
            cores = settings.threads or os.cpu_count() or 1
            for pair in mutual_information.pair_information(
                codes,
                todo,
                seed=settings.seed,
                shuffles=settings.shuffles,
                buckets=settings.buckets,
                threads=cores,
            ):
                pairs.append(pair)
                advance(1)
        entropies |= {name: mutual_information.entropy(codes[name]) for name in codes.keys() - entropies.keys()}
        matrix = mutual_information.mutual_information_matrix(codes, pairs, entropies)
        matrix = matrix.with_columns(
            **{
                f"fingerprint_{side}": matrix[f"feature_{side}"].replace_strict(prints, return_dtype=pl.String)
                for side in "ab"
            }
        )

        _warn_of_useless(matrix)
        if codes:
            console.out.print("mutual information above chance, in % of the possible maximum", soft_wrap=True)
            console.out.print(_heat_table(matrix) if len(codes) <= WIDEST else _strongest(matrix))
        job.write(layout.MUTUAL_INFORMATION, matrix)
        kept = f" ({len(done)} of them unchanged)" if done else ""
        job.done(f"{frame.height:,} items, {len(codes)} features, {len(done) + len(todo)} pairs{kept}")


def _known(matrix: "pl.DataFrame | None", prints: dict[str, str]) -> "tuple[list[Pair], dict[str, tuple[float, int]]]":
    """Return the pairs and entropies of an earlier matrix whose features have not changed."""
    import polars as pl

    from ssl_recall.mutual_information import Pair

    if matrix is None or "fingerprint_a" not in matrix.columns or not prints:
        return [], {}
    now = {side: pl.col(f"feature_{side}").replace_strict(prints, default=None) for side in "ab"}
    same = matrix.filter(*(now[side] == pl.col(f"fingerprint_{side}") for side in "ab"))
    once = same.unique(
        pl.concat_list(pl.min_horizontal("feature_a", "feature_b"), pl.max_horizontal("feature_a", "feature_b"))
    )
    pairs = [Pair(*row) for row in once.select("feature_a", "feature_b", "mi", "mi_chance").iter_rows()]
    own = matrix.filter(now["a"] == pl.col("fingerprint_a")).unique("feature_a")
    return pairs, {
        name: (h, values) for name, h, values in own.select("feature_a", "entropy_a", "values_a").iter_rows()
    }


def _codes(job: reader.Reader, *, with_id: bool) -> "pl.DataFrame":
    """Read one column of codes per feature."""
    import polars as pl

    # the row number stands for the id, because only items with an id vector have a code of their own
    rows = job.read(layout.FEATURES).filter(pl.col("side") == "item").select("feature", "kind").rows()
    kinds = {name: kind for name, kind in rows if kind != "id" or with_id}
    items = job.read(layout.ITEMS, ["item_id", *[name + CODE for name, kind in kinds.items() if kind != "id"]])
    return items.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(name) if kind == "id" else items[name + CODE].alias(name)
        for name, kind in kinds.items()
    )


def _warn_of_useless(matrix: "pl.DataFrame") -> None:
    """Warn of constant features, and of pairs in which each feature determines the other."""
    import polars as pl

    constant = matrix.filter(pl.col("feature_a") == pl.col("feature_b"), pl.col("entropy_a") <= 0)["feature_a"]
    _warn_of_some(
        [f"feature {name} has one value in the whole catalogue: it carries no information" for name in constant]
    )
    same = pl.col("mi") >= pl.max_horizontal("entropy_a", "entropy_b") - 1e-9
    above_chance = pl.col("mi_normalised") > 0  # excludes pairs of columns with unique values
    twins = matrix.filter(pl.col("feature_a") < pl.col("feature_b"), same, above_chance)
    pairs = twins.select("feature_a", "feature_b").rows()
    _warn_of_some([f"features {a} and {b} say the same: each determines the other" for a, b in pairs])


def _warn_of_some(warnings: list[str]) -> None:
    """Print the first LISTED warnings of a kind, and the number of the others."""
    for warning in warnings[:LISTED]:
        console.warn(warning)
    if len(warnings) > LISTED:
        console.warn(f"and {len(warnings) - LISTED:,} more; {layout.MUTUAL_INFORMATION} holds every pair")


def _heat_table(matrix: "pl.DataFrame") -> "Table":
    """Return the normalised MI as a square table, coloured by strength."""
    from rich.table import Table
    from rich.text import Text

    features = matrix["feature_a"].unique(maintain_order=True).to_list()
    values = matrix["mi_normalised"].to_numpy().reshape(len(features), len(features))
    table = Table(box=None, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for number in range(len(features)):
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for row, name in enumerate(features):
        cells = [_cell(value) if row != column else Text("·", style="dim") for column, value in enumerate(values[row])]
        table.add_row(Text(f"{row + 1:>2} {console.printable(name)}"), *cells)
    return table


def _strongest(matrix: "pl.DataFrame") -> "Table":
    """Return a table of the LISTED pairs with the highest normalised MI."""
    import polars as pl
    from rich.table import Table
    from rich.text import Text

    pairs = matrix.filter(pl.col("feature_a") < pl.col("feature_b"))
    strongest = pairs.sort("mi_normalised", "feature_a", "feature_b", descending=[True, False, False]).head(LISTED)
    table = Table(box=None, show_header=False)
    for a, b, value in strongest.select("feature_a", "feature_b", "mi_normalised").rows():
        table.add_row(Text(console.printable(a)), Text(console.printable(b)), _cell(value))
    return table


def _cell(value: float) -> "Text":
    """Format a share of 0 to 1 in per cent, on a background from white to strong red."""
    from rich.text import Text

    other = round(225 * (1 - min(value, 1.0)))
    return Text(str(round(100 * value)), style="dim" if value < 0.05 else f"black on #ff{other:02x}{other:02x}")
