"""The command line: every stage a subcommand, every refusal one line and an exit code."""

import errno
import importlib
import re
import signal
import sys
import traceback
from typing import Any

import typer

from . import console, signals
from .errors import StageError

STAGES = (
    "init",
    "prepare",
    "compute-popularity",
    "compute-mi",
    "build-views",
    "show-views",
    "train",
    "export-embeddings",
    "evaluate",
    "tune",
    "ablate",
    "run",
    "status",
    "clean",
)

STOPPED = 130

app = typer.Typer(
    help="Item retrieval that also recalls the long tail: a two-tower model with a self-supervised item tower.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in STAGES:
    _module = _name.replace("-", "_")
    app.command(_name)(getattr(importlib.import_module(f".{_module}", __package__), _module))


def main() -> None:
    """Run the command line; what the user can mend becomes one line and its exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    console.typed[:] = sys.argv[1:]
    signal.signal(signal.SIGTERM, signals.interrupt)
    try:
        code = app(standalone_mode=False)
        line = "stopped; nothing of this stage was written" if code == STOPPED else ""  # typer's, for a Ctrl-C
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
    """Give the exit code and the line."""
    match error:
        case StageError():
            return error.code, str(error)
        case KeyboardInterrupt():
            return STOPPED, "stopped; nothing of this stage was written"
        case signals.Terminated():
            return 128 + signal.SIGTERM, "terminated; nothing of this stage was written"
        case OSError() | MemoryError():
            return 5, f"{_os_rule(error)}: {str(error) or 'out of memory'}"
        case _ if hasattr(error, "format_message"):  # typer's, of a flag or a command
            return 2, _of_usage(error)
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error)):
        return 5, f"OUT_OF_MEMORY: {first}; take smaller batches or widths"
    if written := re.search(
        r"\(os error (\d+)\)", first
    ):  # polars writes files itself and keeps the number in the text
        return 5, f"{_os_rule(OSError(int(written[1]), ''))}: {first}"
    return 70, f"BUG: {type(error).__name__}: {first}; run again with --debug and report it"


def _of_usage(error: Any) -> str:
    """Write what typer says of a flag in one line; without any argument it says the help."""
    text, ctx = str(error.format_message()), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"USAGE: no command given\n{text}"
    return f"USAGE: {text.strip()}" + (f"; see: {ctx.command_path} --help" if ctx else "")


def _os_rule(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "OUT_OF_MEMORY"
    number = getattr(error, "errno", None)
    return {errno.ENOSPC: "DISK_FULL", errno.EDQUOT: "DISK_FULL", errno.EFBIG: "FILE_TOO_LARGE"}.get(
        number or 0, "FILE"
    )
