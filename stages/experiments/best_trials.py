"""The best trials of `tune`, as lines for the settings file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.learning.arm import Arm
from stages.learning.settings import used_values
from stages.options import values_of
from stages.terminal import console

from . import arms

if TYPE_CHECKING:
    import polars as pl


GIVEN = {"ssl", "threads"}  # left out: `run` trains with and without SSL, and every arm has one thread


def show(
    frame: "pl.DataFrame",  # tuning.parquet
    picked: Mapping[str, Arm],
    plain: arms.Plain,
    select_on: str,
    file: Path,  # the settings file
) -> None:
    """Print each arm's best trial as TOML, without the settings that equal those of the settings file."""
    best = {row["arm"]: row for row in frame.filter("best").iter_rows(named=True)}
    for name, arm in picked.items():
        if name not in best:
            console.out.print(f"# {name}: every trial failed", soft_wrap=True)
            continue
        lines = list(toml(arm.tuned(json.loads(best[name]["settings"])), plain))
        to_keep = f"to keep it, put these lines under their tables in {file} (four digits)"
        said = f"# {name}: trial {best[name]['trial']}, {best[name]['value']:.4f} {select_on}; "
        said += to_keep if lines else "the current settings"
        console.out.print("\n".join([said, *lines]), soft_wrap=True)


def toml(arm: Arm, plain: arms.Plain) -> Iterator[str]:
    """Yield the lines that change the settings file to the arm's settings, in the tables that `init` writes."""
    own_views = values_of(arm.views) if arm.views is not None else {}
    for stage, own, was in (
        ("compute_popularity", arm.popularity, values_of(plain.popularity)),
        ("build_views", own_views, values_of(plain.views)),
        ("train", used_values(arm.train), used_values(plain.train)),
    ):
        changed = {name: own[name] for name in own if name not in GIVEN and own[name] != was.get(name)}
        if changed:
            yield f"[{stage}]"
        for name, value in changed.items():
            if value is None:  # which TOML cannot say
                yield f"# {name}: remove it"
                continue
            short = float(f"{value:.4g}") if isinstance(value, float) else value
            yield f"{name} = {json.dumps(short)}"  # texts, numbers and lists look the same in TOML and JSON
