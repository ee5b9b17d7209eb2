"""Collect the problems of a user's table and raise them together."""

import difflib
from collections.abc import Collection

from stages.terminal.errors import InputError

PROBLEM = "\n  "  # begins the line of a problem, where a table has several


class Problems:
    """The problems of one table; raised together, so that one run shows all of them."""

    def __init__(self, table: str) -> None:
        """Name the table as the user knows it."""
        self.table, self.found = table, list[tuple[str, str]]()

    def add(self, rule: str, text: str) -> None:
        """Note one problem."""
        self.found.append((rule, text))

    def stop_if_any(self) -> None:
        """Raise InputError with every problem noted."""
        if len(self.found) == 1:
            raise InputError(f"{self.table}: {self.found[0][1]}", self.found[0][0])
        if self.found:
            lines = "".join(f"{PROBLEM}{rule}: {text}" for rule, text in self.found)
            raise InputError(f"{self.table}: {len(self.found)} problems{lines}", self.found[0][0])


def need_column(columns: Collection[str], name: str, flag: str, problems: Problems, more: str = "") -> bool:
    """Note a missing column with the nearest name; return whether the column exists."""
    if name in columns:
        return True
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; did you mean {flag} {close[0]!r}?" if close else f"; there are {', '.join(columns)}"
    problems.add("NO_COLUMN", f"no column {name!r}{hint}{more}")
    return False
