"""Flags that every command has."""

from pathlib import Path
from typing import Annotated

import typer

from . import config

DEFAULT_RUN = Path("runs/default")
RunOption = Annotated[
    Path,
    typer.Option("--run", help="Run folder: everything is read from and written to it.", callback=config.own_folder),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file; flags win over it. [default: ssl-recall.toml, where there is one]",
        is_eager=True,
        callback=config.load,
        show_default=False,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Run even when up to date.")]
