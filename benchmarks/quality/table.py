"""Write the tables of recall into benchmarks/results/tables.md: test recall@50 by slice, a row per model or arm.

    python benchmarks/quality/table.py

It reads benchmarks/results and replaces the text between the marks BEGIN and END. quality.parquet comes from score.py.
ablation-DATA-FRACTION.parquet is the ablation.parquet of a run folder. In
ablation-DATA-against-tuned-no-ssl-FRACTION.parquet, no-ssl has its best settings by `tune`.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.experiments import ablation_table
from stages.terminal.metrics_table import SLICES

BENCHMARKS = Path(__file__).parents[1]
TOO_LITTLE = 0.01  # recall below which no relative difference is shown
BEGIN, END = "<!-- begin: made by quality/table.py -->\n", "<!-- end -->\n"


DATA = ("debian", "ml-1m", "completejourney")
GOALS = ("all", "tail", "cold")
KINDS = {
    "": "no SSL, same settings",
    "-against-tuned-no-ssl": "no SSL with its best-tuned settings",
    "-tuned": "no SSL, each with its own best-tuned settings",
}


def gains() -> Iterator[str]:
    """Yield, for each data set and fraction, the gain of the default, and the best other model by slice."""
    quality = pl.read_parquet(BENCHMARKS / "results" / "quality.parquet")
    yield "| data | next to | " + " | ".join(GOALS) + " |"
    yield "| --- | --- |" + " ---: |" * len(GOALS)
    for data, fraction in ((data, fraction) for data in DATA for fraction in (1.0, 0.1)):
        for kind, title in KINDS.items():
            path = BENCHMARKS / "results" / f"ablation-{data}{kind}-{fraction:.1f}.parquet"
            if path.exists():
                found = pl.read_parquet(path)
                seeds = found.filter(arm="ssl")["seeds"][0]
                figures = " | ".join(_gain(found, part) for part in GOALS)
                yield f"| {data}, {fraction:.0%} | {title}, {seeds} seeds | {figures} |"
        rows = quality.filter(data=data, fraction=fraction)
        mean = rows.group_by("model", "slice").agg(pl.col("recall_at_50").mean()).drop_nulls()
        best = [mean.filter(slice=part).sort("recall_at_50", "model").row(-1, named=True) for part in GOALS]
        figures = " | ".join(
            f"{_short(row['recall_at_50'])} {row['model'] if row['recall_at_50'] else ''}" for row in best
        )
        yield f"| {data}, {fraction:.0%} | the best other in each column | {figures} |"
    yield ""


def _gain(ablation: pl.DataFrame, part: str) -> str:
    """Format a slice's recall without and with SSL, the difference with its interval, and the relative difference."""
    of = {row["arm"]: row for row in ablation.filter(k=50, slice=part).iter_rows(named=True)}
    old, new = of["no-ssl"]["value"], of["ssl"]
    interval = ", ".join(_short(end, "+") for end in (new["low"], new["high"]) if end is not None)
    relative = f", {new['value'] / old - 1:+.0%}" if old > TOO_LITTLE else ""
    return f"{_short(old)} to {_short(new['value'])} ({_short(new['difference'], '+')} [{interval}]{relative})"


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}"


def arms(path: Path) -> Iterator[str]:
    """Yield an ablation as lines of Markdown."""
    frame, (data, fraction) = pl.read_parquet(path), path.stem.removeprefix("ablation-").rsplit("-", 1)
    seeds = max(frame.filter(pl.col("arm") != "most-popular")["seeds"].to_list())
    plural = "s" if seeds != 1 else ""
    yield f"### {data}, {float(fraction):.0%} of the training interactions: arms, {seeds} seed{plural}\n"
    table = ablation_table.markdown(frame, "").splitlines()
    yield from (line for line in table if line.startswith("|"))
    yield ""


def libraries(rows: pl.DataFrame) -> Iterator[str]:
    """Yield the figures of score.py as lines of Markdown, means over the seeds."""
    for (data, fraction), part in rows.partition_by("data", "fraction", as_dict=True).items():
        pairs = dict(part.unique("slice").select("slice", "n").iter_rows())
        yield f"### {data!s}, {float(fraction):.0%} of the training interactions: libraries\n"
        yield "| model | " + " | ".join(SLICES) + " | picked |"
        yield "| --- |" + " ---: |" * len(SLICES) + " --- |"
        for (model, settings), found in part.group_by("model", "settings", maintain_order=True):
            mean = dict(found.group_by("slice").agg(pl.col("recall_at_50").mean()).iter_rows())
            name = f"{model}, {settings}" if settings else model
            figures = " | ".join(_short(mean[part]) for part in SLICES)
            yield f"| {name} | {figures} | {', '.join(found['trial'].unique(maintain_order=True))} |"
        yield "| test pairs | " + " | ".join(f"{pairs[name]:,}" for name in SLICES) + " | |"
        yield ""


def main() -> None:
    """Write the tables between the marks."""
    lines = list(gains())
    lines += [line for path in sorted((BENCHMARKS / "results").glob("ablation-*.parquet")) for line in arms(path)]
    lines += libraries(pl.read_parquet(BENCHMARKS / "results" / "quality.parquet"))
    page = BENCHMARKS / "results" / "tables.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
