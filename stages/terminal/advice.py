"""Say in words which model to serve, from the figures of metrics.parquet and the paired intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


OWN = "ssl"
TITLES = {
    "most-popular": "most popular",
    "recent-popular": "recent popular",
    "item-knn": "ItemKNN",
    "ease": "EASE",
    "content-knn": "content kNN",
    "als": "ALS",
    "no-ssl": "no SSL",
    "ssl": "SSL",
}
WORDS = {
    "all": "all pairs",
    "head": "the head",
    "tail": "the tail",
    "cold": "cold items",
    "new-queries": "the pairs of new queries",
}
SHOWN = (*WORDS, "warm-tail")  # a model that is best in all slices is best in the warm tail, too


@dataclass(frozen=True)
class Recalls:
    """The recall of each model and slice, and the intervals of the measured differences."""

    rows: Mapping[tuple[str, str], Mapping[str, Any]]  # (model or difference, slice) -> its row

    def value(self, model: str, part: str) -> float:
        """Return the recall of a model in a slice."""
        return float(self.rows[model, part]["value"])

    def sign(self, model: str, other: str, part: str) -> int:
        """Return 1 if the model recalls more than the other, -1 if it recalls less, 0 if it recalls as much.

        The paired interval decides. It is measured against SSL and no SSL; two baselines are compared by their figures.
        """
        for one, two, turn in ((model, other, 1), (other, model, -1)):
            row = self.rows.get((f"{one} - {two}", part))
            if row is not None:
                return turn * (int(row["low"] > 0) - int(row["high"] < 0))
        mine, its = self.value(model, part), self.value(other, part)
        return (mine > its) - (mine < its)


def advice(frame: "pl.DataFrame", k: int) -> str:
    """Name the model to serve and why: metrics.parquet -> one line.

    SSL, if no model recalls significantly more of all pairs, and if SSL recalls significantly more of the tail or of
    cold items than each model that recalls as much of all pairs. Otherwise the model that recalls most of all pairs.
    """
    rows = frame.filter(k=k, metric="recall").iter_rows(named=True)
    recalls = Recalls({(row["model"], row["slice"]): row for row in rows})
    names = [name for name in TITLES if (name, "all") in recalls.rows]
    parts = [part for part in SHOWN if recalls.rows.get((names[0], part), {}).get("n")]
    picked = _picked(recalls, names, parts)
    return f"serve {TITLES[picked]}: {_why(recalls, picked, [name for name in names if name != picked], parts)}"


def _picked(recalls: Recalls, names: list[str], parts: list[str]) -> str:
    others = [name for name in names if name != OWN]
    rare = [part for part in ("tail", "cold") if part in parts]
    signs = {name: recalls.sign(OWN, name, "all") for name in others}
    if all(
        sign > 0 or (sign == 0 and any(recalls.sign(OWN, name, part) > 0 for part in rare))
        for name, sign in signs.items()
    ):
        return OWN
    return max(reversed(names), key=lambda name: recalls.value(name, "all"))


def _why(recalls: Recalls, picked: str, others: list[str], parts: list[str]) -> str:
    """Say what the picked model recalls more or as much of, and what another model recalls more of."""
    best = [part for part in parts if all(recalls.sign(picked, name, part) > 0 for name in others)]
    if best == parts:
        return "it is best in all slices"
    best, parts = ([part for part in some if part in WORDS] for some in (best, parts))
    if picked == OWN:
        said = [f"best of {_listed(best)}"] if best else []
        tied = [name for name in others if recalls.sign(picked, name, "all") == 0]
        said += [_as_much(recalls, picked, max(tied, key=lambda name: recalls.value(name, "all")))] if tied else []
    elif recalls.sign(picked, OWN, "all") > 0:
        more = [part for part in parts if recalls.sign(picked, OWN, part) > 0]
        figures = {"all": _figures(recalls, picked, OWN, "all")}
        said = [f"it recalls more than {TITLES[OWN]} of {_listed(more, figures)}"]
    else:
        said = [_as_much(recalls, picked, OWN)]
    return "; ".join([*said, *_losses(recalls, picked, others, parts)])


def _losses(recalls: Recalls, picked: str, others: list[str], parts: list[str]) -> list[str]:
    """Name, for each slice in which the picked model loses, the model that recalls most."""
    lost: dict[str, dict[str, str]] = {}
    for part in parts:
        better = [name for name in others if recalls.sign(picked, name, part) < 0]
        if better:
            most = max(better, key=lambda name: recalls.value(name, part))
            lost.setdefault(most, {})[part] = _figures(recalls, most, picked, part)
    return [f"{TITLES[name]} recalls more of {_listed(list(figures), figures)}" for name, figures in lost.items()]


def _as_much(recalls: Recalls, picked: str, other: str) -> str:
    figures = f"{_short(recalls.value(picked, 'all'))} and {_short(recalls.value(other, 'all'))}"
    return f"it recalls as much of all pairs as {TITLES[other]} ({figures})"


def _figures(recalls: Recalls, higher: str, lower: str, part: str) -> str:
    return f" ({_short(recalls.value(higher, part))} to {_short(recalls.value(lower, part))})"


def _listed(parts: list[str], figures: Mapping[str, str] | None = None) -> str:
    """Write slices as `all pairs (0.382 to 0.352), of the head and of the tail`."""
    words = [WORDS[part] + (figures or {}).get(part, "") for part in parts]
    *first, last = [words[0], *(f"of {word}" for word in words[1:])]
    return f"{', '.join(first)} and {last}" if first else last


def _short(value: float) -> str:
    return f"{value:.3f}" if value else "0"
