"""What `tune` found, as lines for the settings file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arms, console

if TYPE_CHECKING:
    import polars as pl

GIVEN = {"ssl", "threads"}  # `run` trains with and without; an arm has one thread


def show(
    frame: "pl.DataFrame",  # tuning.parquet
    picked: Mapping[str, arms.Arm],
    plain: Mapping[str, Mapping[str, Any]],  # [build-views] and [train] as they are
    select_on: str,
    file: Path,  # of the settings
) -> None:
    """Print each arm's best trial as TOML, where it differs from the settings as they are."""
    best = {row["arm"]: row for row in frame.filter("best").iter_rows(named=True)}
    for name, arm in picked.items():
        if name not in best:
            console.out.print(f"# {name}: no trial came to an end with a number", soft_wrap=True)
            continue
        lines = list(toml(arm.tuned(json.loads(best[name]["settings"])), plain))
        to_keep = f"to keep it, put these lines under their tables in {file} (four digits)"
        said = f"# {name}: trial {best[name]['trial']}, {best[name]['value']:.4f} {select_on}; "
        said += to_keep if lines else "the settings as they are"
        console.out.print("\n".join([said, *lines]), soft_wrap=True)


def toml(arm: arms.Arm, plain: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Give the lines that make the settings as they are those of the arm, tables as `init` names them."""
    for stage, own in (("build-views", arm.views or {}), ("train", arm.train)):
        changed = {name: own[name] for name in own if name not in GIVEN and own[name] != plain[stage].get(name)}
        if changed:
            yield f"[{stage.replace('-', '_')}]"
        for name, value in changed.items():
            short = float(f"{value:.4g}") if isinstance(value, float) else value
            yield f"{name} = {json.dumps(short)}"  # texts, numbers and lists are in TOML what they are in JSON
