"""The two consoles: `out` for what was asked for, `err` for how the work goes."""

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECRET = re.compile(r"(\w:/{1,2})[^/\s@]*:[^/\s@]*@")  # of s3://user:password@host; a Path has one slash left
typed: list[str] = []  # the arguments of the command line, for a message that names the same command again
WIDE = 120  # columns where the output is no terminal: a file, a pipe, CI

out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, width=None if sys.stderr.isatty() else WIDE)


def printable(text: str) -> str:
    """Show control characters as escapes, for a title is not to steer the terminal, and leave a URL's password out."""
    text = SECRET.sub(r"\1***@", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def same_command() -> str:
    """Give the command that was typed, to go on with: without --force, which begins anew."""
    return shlex.join(["ssl-recall", *(part for part in typed if part != "--force")])


def without(arguments: Sequence[str], valued: Collection[str], switches: Collection[str]) -> list[str]:
    """Leave flags out of a command's arguments: those that take a value with it, and those that take none."""
    kept, is_value = list[str](), False
    for part in arguments:
        flag, joined, _ = part.partition("=")
        if not is_value and flag not in valued and flag not in switches:
            kept.append(part)
        is_value = not is_value and flag in valued and not joined
    return kept


def line(text: str, style: str = "") -> None:
    """Print one line on stderr; text of the user's is printed as it stands, never as markup or as control codes."""
    err.print(printable(text), style=style, soft_wrap=True)


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    line(f"warning: {message}", style="yellow")


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show a bar with the rate and the time left on stderr; the value given advances it. Without a title: nothing."""
    columns = (
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not (title and err.is_terminal)) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(count: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed or 0.0
            bar.update(task, advance=count, rate=f"{speed:,.{0 if speed >= 10 else 2}f} {unit}/s")

        yield advance
