"""The two consoles: `out` for results, `err` for progress and messages."""

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECRET = re.compile(r"(\w:/{1,2})[^/\s@]*:[^/\s@]*@")  # as in s3://user:password@host; a Path keeps one slash
typed: list[str] = []  # arguments of the command line, for messages that name the same command
WIDE = 120  # columns if the output is no terminal: a file, a pipe, CI

out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, width=None if sys.stderr.isatty() else WIDE)


def printable(text: str) -> str:
    """Escape control characters, so that no title steers the terminal, and remove a URL's password."""
    text = SECRET.sub(r"\1***@", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def same_command() -> str:
    """Return the typed command without --force, so that it resumes instead of restarting."""
    return shlex.join(["ssl-recall", *(part for part in typed if part != "--force")])


def without(arguments: Sequence[str], valued: Collection[str], switches: Collection[str]) -> list[str]:
    """Return a command's arguments without some flags: `valued` flags with their values, and `switches`."""
    kept, is_value = list[str](), False
    for part in arguments:
        flag, joined, _ = part.partition("=")
        if not is_value and flag not in valued and flag not in switches:
            kept.append(part)
        is_value = not is_value and flag in valued and not joined
    return kept


def line(text: str, style: str = "") -> None:
    """Print one line on stderr; never interpret the user's text as markup or control codes."""
    err.print(printable(text), style=style, soft_wrap=True)


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    line(f"warning: {message}", style="yellow")


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left on stderr, none without a title; yield the function that advances it."""
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
