"""Run the command line: each stage is a subcommand, each refusal one line and an exit code."""

import errno
import importlib
import re
import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer

from stages.terminal import console, settings_file, signals
from stages.terminal.errors import StageError
from stages.user_tables.problems import PROBLEM

from . import options
from .pipeline import COMMANDS

STOPPED = 130
NO_ROOM = ("allocate memory", "out of memory", "failed to map segment")  # of torch, of CUDA, of the library loader
ABORTED = (
    "OUT_OF_MEMORY: a library aborted, most likely for lack of memory (its message is above); "
    "this stage wrote nothing; take smaller batches or widths, or a larger machine"
)

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)
for _one in COMMANDS:
    _function = getattr(importlib.import_module(f"stages.{_one.module}"), _one.name.replace("-", "_"))
    app.command(_one.name, cls=options.GroupedCommand, short_help=_one.title, context_settings=HELP)(
        options.command(_function)
    )


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"ssl-recall {version('ssl-recall')}")
        raise typer.Exit


@app.callback()
def _ssl_recall(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Item retrieval that also recalls the long tail: a two-tower model with a self-supervised item tower."""


def main() -> None:
    """Run the command line; turn an error that the user can mend into one line and its exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    console.typed[:] = sys.argv[1:]
    signal.signal(signal.SIGTERM, signals.interrupt)
    signals.end_aborts(5, f"ssl-recall: {ABORTED}\n")
    try:
        code = app(standalone_mode=False)
        line = "stopped; this stage wrote nothing" if code == STOPPED else ""  # typer returns it after Ctrl-C
    except SystemExit:
        raise
    except BaseException as error:
        if debug:
            _say(traceback.format_exc())
        code, line = _outcome(error)
    if line:
        _say(f"ssl-recall: {line}")
    sys.exit(code if isinstance(code, int) else 0)


def _say(text: str) -> None:
    for part in text.splitlines():
        console.line(part, style="red")


def _outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the line of an error."""
    match error:
        case StageError():
            lines = str(error).split(PROBLEM)  # a table with several mistakes has a line for each
            return error.code, PROBLEM.join(map(console.printable, lines))
        case KeyboardInterrupt():
            return STOPPED, "stopped; this stage wrote nothing"
        case signals.Terminated():
            return 128 + signal.SIGTERM, "terminated; this stage wrote nothing"
        case OSError() | MemoryError():
            return 5, f"{_os_rule(error)}: {str(error) or 'out of memory'}"
        case _ if hasattr(error, "format_message"):  # typer's error about a flag or a command
            return 2, _of_usage(error)
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, RuntimeError | ImportError) and any(text in str(error) for text in NO_ROOM):
        return 5, f"OUT_OF_MEMORY: {first}; take smaller batches or widths"
    # polars writes files itself; only its message holds the error number
    if number := re.search(r"\(os error (\d+)\)", first):
        return 5, f"{_os_rule(OSError(int(number[1]), ''))}: {first}"
    return 70, f"BUG: {type(error).__name__}: {first}; run again with --debug and report it"


def _of_usage(error: Any) -> str:
    """Write typer's refusal in one line; if no command was given, add the help."""
    text, ctx = str(error.format_message()).rstrip(".?"), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"USAGE: no command given\n{text}"
    if place := settings_file.place_of(error):
        text = console.printable(f"{place}: {getattr(error, 'message', text)}").rstrip(".?")
    if ctx and ctx.info_name == "prepare" and text.startswith("Missing option") and not ctx.params.get("config"):
        text += "; there is no settings file here: ssl-recall init writes one"
    return f"USAGE: {text.strip()}" + (f"; see: {ctx.command_path} --help" if ctx else "")


def _os_rule(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "OUT_OF_MEMORY"
    number = getattr(error, "errno", None)
    return {errno.ENOSPC: "DISK_FULL", errno.EDQUOT: "DISK_FULL", errno.EFBIG: "FILE_TOO_LARGE"}.get(
        number or 0, "FILE"
    )
