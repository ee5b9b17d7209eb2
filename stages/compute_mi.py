"""Measure what each item feature says about each other one."""

import os
from enum import StrEnum
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Annotated

import typer

from . import artifacts, console, options, reader
from .feature_columns import CODE

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table
    from rich.text import Text

    from ssl_recall.mutual_information import Pair

READS = ("items.parquet", "features.parquet")
WRITES = ("mutual_information.parquet",)
WIDEST = 16  # features of a heat table that fits a terminal; of more, the strongest pairs are listed
LISTED = 20


class IdRole(StrEnum):
    """Whether the item id is a feature among the others."""

    EXCLUDE = "exclude"
    INCLUDE = "include"


def compute_mi(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    id: Annotated[  # noqa: A002 - the flag and the settings key have one name
        IdRole,
        typer.Option(help="The item id as a feature: unique, so its plug-in MI with f is H(f), its corrected one 0."),
    ] = IdRole.EXCLUDE,
    shuffles: Annotated[int, typer.Option(min=1, help="Permutations that the chance level is the mean of.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the permutations.")] = 1,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Pairs measured at a time; 0: as many as cores.")] = 0,
    buckets: Annotated[
        int, typer.Option(min=0, max=10_000, help="Parts that a pair of many values is counted in; 0: as memory wants.")
    ] = 0,
    force: options.ForceOption = False,
) -> None:
    """Compute the mutual information of every pair of item features, in nats over the catalogue.

    Reads items.parquet and features.parquet; writes mutual_information.parquet: every ordered pair with the plug-in MI,
    its chance level (the same with one feature's rows shuffled), the MI above chance, that as a share of what was
    possible above chance (0 to 1), both entropies and numbers of values. Prints the last as a table. A pair whose two
    features have not changed is not measured again (--force measures all).
    """
    free = {"buckets", "threads"}  # they change no result
    settings = {name: value for name, value in locals().items() if name not in {*free, "free"}}
    with artifacts.Job(run, "compute-mi", settings, reads=READS, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        import polars as pl

        from ssl_recall import mutual_information

        frame = _codes(job, with_id=id is IdRole.INCLUDE)
        codes = {name: mutual_information.codes_of(frame[name]) for name in frame.columns}
        prints = {name: mutual_information.fingerprint(column, seed, shuffles) for name, column in codes.items()}
        known = None if force else job.previous("mutual_information.parquet")
        pairs, entropies = _known(known, prints)
        done = {frozenset((pair.feature_a, pair.feature_b)) for pair in pairs}
        todo = [pair for pair in combinations_with_replacement(codes, 2) if frozenset(pair) not in done]
        with console.progress("compute-mi", len(todo), "pairs") as advance:
            cores = threads or os.cpu_count() or 1
            for pair in mutual_information.pair_information(
                codes, todo, seed=seed, shuffles=shuffles, buckets=buckets, threads=cores
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
            console.out.print("mutual information above chance, in % of what is possible", soft_wrap=True)
            console.out.print(_heat_table(matrix) if len(codes) <= WIDEST else _strongest(matrix))
        job.write("mutual_information.parquet", matrix)
        kept = f" ({len(done)} of them known)" if done else ""
        job.done(f"{frame.height:,} items, {len(codes)} features, {len(done) + len(todo)} pairs{kept}")


def _known(matrix: "pl.DataFrame | None", prints: dict[str, str]) -> "tuple[list[Pair], dict[str, tuple[float, int]]]":
    """Take from an earlier matrix the pairs and entropies of features that are as they were."""
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
    """Give one column of codes a feature."""
    import polars as pl

    # the id is told by the row number: its code column knows only the items that have an id vector
    rows = job.read("features.parquet").filter(pl.col("side") == "item").select("feature", "kind").rows()
    kinds = {name: kind for name, kind in rows if kind != "id" or with_id}
    items = job.read("items.parquet", ["item_id", *[name + CODE for name, kind in kinds.items() if kind != "id"]])
    return items.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(name) if kind == "id" else items[name + CODE].alias(name)
        for name, kind in kinds.items()
    )


def _warn_of_useless(matrix: "pl.DataFrame") -> None:
    """Warn of features that are constant, and of pairs that say the same."""
    import polars as pl

    constant = matrix.filter(pl.col("feature_a") == pl.col("feature_b"), pl.col("entropy_a") <= 0)["feature_a"]
    _warn_of_some([f"feature {name} has one value in the whole catalogue: it says nothing" for name in constant])
    same = pl.col("mi") >= pl.max_horizontal("entropy_a", "entropy_b") - 1e-9
    above_chance = pl.col("mi_normalised") > 0  # two columns of unique values are no twins
    twins = matrix.filter(pl.col("feature_a") < pl.col("feature_b"), same, above_chance)
    pairs = twins.select("feature_a", "feature_b").rows()
    _warn_of_some([f"features {a} and {b} say the same: each determines the other" for a, b in pairs])


def _warn_of_some(warnings: list[str]) -> None:
    """Print the first `LISTED` warnings of a kind, and how many more there are."""
    for warning in warnings[:LISTED]:
        console.warn(warning)
    if len(warnings) > LISTED:
        console.warn(f"and {len(warnings) - LISTED:,} more such; mutual_information.parquet holds every pair")


def _heat_table(matrix: "pl.DataFrame") -> "Table":
    """Lay the normalised measure out as a square, coloured by strength."""
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
    """List the pairs of two features with the highest normalised measure."""
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
    """Write a share of 0 to 1 in per cent, coloured from the terminal's own background to a strong red."""
    from rich.text import Text

    other = round(225 * (1 - min(value, 1.0)))
    return Text(str(round(100 * value)), style="dim" if value < 0.05 else f"black on #ff{other:02x}{other:02x}")
