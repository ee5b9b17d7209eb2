"""Write docs/settings.md from the settings dataclasses, or with --check compare it: `make docs`."""

import sys
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from stages.cli import app
from stages.pipeline import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SHARED = "Run folder"  # the group that every command has
HEAD = """# Settings

Every flag of every command, in the groups of `--help`. A line under the command's table in `ssl-recall.toml` sets the
same value: `temperature = 0.1` under `[train]` is `ssl-recall train --temperature 0.1`. A flag wins over the file.
Names in the file have underscores; a repeatable flag is a list there.

The code declares each setting once, in a frozen dataclass. This page is generated from it (`make docs`).

| flag of every stage | default | meaning |
| --- | --- | --- |
"""


def rows(ctx: typer.Context, parameters: list[Any]) -> list[str]:
    """Write a table row for each option: its names, its default and bounds, its help."""
    lines = []
    for parameter in parameters:
        names = " / ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        _, text = parameter.get_help_record(ctx)
        text, _, bounds = text.removesuffix("]").partition("  [")
        meaning, _, told = text.partition(" [default: ")
        default = told.removesuffix("]") or bounds.removeprefix("default: ")
        lines.append(f"| {names} | {default} | {meaning} |".replace("||", "|"))
    return lines


def page() -> str:
    """Build the page."""
    root: Any = get_command(app)
    ctx = typer.Context(root, info_name="ssl-recall")
    text, shared = HEAD, list[str]()
    for one in COMMANDS:
        groups: dict[str, list[Any]] = {}
        for parameter in root.commands[one.name].params:
            if parameter.param_type_name == "option":
                groups.setdefault(parameter.rich_help_panel or "Options", []).append(parameter)
        shared += [line for line in rows(ctx, groups.pop(SHARED, [])) if line not in shared]
        if not groups:
            continue
        text += f"\n## {one.name}\n\n{one.title}\n"
        for title, parameters in groups.items():
            heading = f"\n**{title}**\n" if len(groups) > 1 else ""
            text += (
                f"{heading}\n| flag | default | meaning |\n| --- | --- | --- |\n"
                + "\n".join(rows(ctx, parameters))
                + "\n"
            )
    return text.replace(HEAD, HEAD + "\n".join(shared) + "\n", 1)


def main() -> int:
    """Write the page, or say whether it is up to date."""
    if "--check" in sys.argv:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
