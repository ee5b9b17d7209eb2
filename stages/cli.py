"""The command line: every stage a subcommand, every refusal one line and an exit code."""

import errno
import importlib
import re
import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer

from . import config, console, signals
from .errors import StageError

STAGES = {  # subcommand -> its line in the list of all
    "init": "Look at your tables and write a settings file.",
    "run": "Run all stages in order, each only where it is stale.",
    "status": "Say what run would do, and why; --verify checks files.",
    "prepare": "Check and encode the tables, and split the log.",
    "compute-popularity": "Count items: p and log p.",
    "compute-mi": "Mutual information of every two item features.",
    "build-views": "Draw pairs of partial views of every item.",
    "show-views": "Print the views of one item in words.",
    "train": "Train the two towers, with or without SSL.",
    "export-embeddings": "Write the items' and the queries' vectors.",
    "evaluate": "Recall of head, tail and cold items, with intervals.",
    "tune": "Search settings on the validation interactions.",
    "ablate": "Compare the parts of the SSL over several seeds.",
    "clean": "Remove what a killed run has left behind.",
}

STOPPED = 130
NO_ROOM = ("allocate memory", "out of memory", "failed to map segment")  # torch, CUDA, a library that is loaded
ABORTED = (
    "OUT_OF_MEMORY: an engine gave up in the midst of work, most likely for want of memory (what it said is above); "
    "nothing of this stage was written; take smaller batches or widths, or a larger machine"
)

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)
for _name, _line in STAGES.items():
    _module = importlib.import_module(f".{_name.replace('-', '_')}", __package__)
    app.command(_name, short_help=_line, context_settings=HELP)(getattr(_module, _name.replace("-", "_")))


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
    """Run the command line; what the user can mend becomes one line and its exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    console.typed[:] = sys.argv[1:]
    signal.signal(signal.SIGTERM, signals.interrupt)
    signals.end_aborts(5, f"ssl-recall: {ABORTED}\n")
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
            return error.code, console.printable(str(error))
        case KeyboardInterrupt():
            return STOPPED, "stopped; nothing of this stage was written"
        case signals.Terminated():
            return 128 + signal.SIGTERM, "terminated; nothing of this stage was written"
        case OSError() | MemoryError():
            return 5, f"{_os_rule(error)}: {str(error) or 'out of memory'}"
        case _ if hasattr(error, "format_message"):  # typer's, of a flag or a command
            return 2, _of_usage(error)
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, RuntimeError | ImportError) and any(said in str(error) for said in NO_ROOM):
        return 5, f"OUT_OF_MEMORY: {first}; take smaller batches or widths"
    if written := re.search(
        r"\(os error (\d+)\)", first
    ):  # polars writes files itself and keeps the number in the text
        return 5, f"{_os_rule(OSError(int(written[1]), ''))}: {first}"
    return 70, f"BUG: {type(error).__name__}: {first}; run again with --debug and report it"


def _of_usage(error: Any) -> str:
    """Write what typer says of a flag in one line; without any argument it says the help."""
    text, ctx = str(error.format_message()).rstrip(".?"), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"USAGE: no command given\n{text}"
    if place := config.place_of(error):
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
