"""Parse the declaration of a feature, NAME=KIND[,OPTION=VALUE..]: a flag or a line of the settings file."""

import difflib
import re

import typer

from stages.terminal.errors import SettingsError

EXCLUDE = "exclude"
KINDS = ("categorical", "multi-valued", "numeric", "dense", EXCLUDE)
NUMBERS = ("min_count", "max_values", "buckets")


def merged(ctx: typer.Context, param: typer.CallbackParam, value: list[str] | None) -> list[str]:
    """Let a flag's NAME=KIND win over the settings file's line for the same column, and keep its other lines."""
    kept: dict[str, str] = {}
    for declaration in [*((ctx.default_map or {}).get(str(param.name)) or []), *(value or [])]:
        kept[split(declaration)[0]] = declaration
    return list(kept.values())


def split(declaration: str) -> tuple[str, str]:
    """Cut NAME=KIND[,OPTION=VALUE..] into the name, which may hold "=" or "," itself, and the options."""
    found = re.match(rf"(.+?)=\s*(?:{'|'.join(KINDS)})?\s*(?:$|,(.*))", declaration, re.DOTALL)
    return (found[1], found[2] or "") if found else (declaration.partition("=")[0], "")


def declared(declarations: list[str], names: list[str], flag: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Parse NAME=KIND[,option=value..]: -> name -> (kind, options). Raises SettingsError for a bad declaration."""
    parsed: dict[str, tuple[str, dict[str, str]]] = {}
    for declaration in declarations:
        own = [name for name in names if declaration.startswith(f"{name}=")]  # a name may hold "=" or "," itself
        name = max(own, key=len, default=declaration.partition("=")[0])
        equals, setting = declaration[len(name) :][:1], declaration[len(name) + 1 :]
        kind, *options = re.split(r",(?=\s*\w+=)", setting)  # so that separator=, is one option
        pairs = dict(option.lstrip().partition("=")[::2] for option in options)
        known = {*NUMBERS, "separator", "nan"}
        wrong = [key for key in pairs if key not in known]
        if not equals or wrong:
            what = f"has no option {wrong[0]!r}" if wrong else "is not NAME=KIND"
            raise SettingsError(f"{flag} {declaration!r} {what}; options: {', '.join(sorted(known))}", "FEATURE")
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise SettingsError(
                f"{flag}: no column {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""), "FEATURE"
            )
        if mistake := _mistake(kind.strip(), pairs):
            raise SettingsError(f"{flag} {declaration!r}: column {name!r} {mistake}", "FEATURE")
        parsed[name] = (kind.strip(), pairs)
    return parsed


def _mistake(kind: str, options: dict[str, str]) -> str:
    """Describe the mistake in a kind (empty: the type decides) or in an option's value; empty if there is none."""
    if kind not in {"", *KINDS}:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        return f"is of no kind {kind!r}" + (f"; did you mean {close[0]!r}?" if close else f": {', '.join(KINDS)}")
    for key in NUMBERS:
        if key in options and not (options[key].isdecimal() and int(options[key])):
            return f"needs {key} of at least 1, has {options[key]!r}"
    nan = options.get("nan", "missing")
    return "" if nan in {"missing", "refuse"} else f"has nan={nan}; it can be missing or refuse"
