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
SEED_SPREAD = {  # twice the largest standard deviation of SSL - no SSL over five seeds (benchmarks/results/ablation-*)
    "all": 0.011,
    "head": 0.017,
    "tail": 0.015,
    "cold": 0.022,
    "warm-tail": 0.031,
}
SHOWN = (*WORDS, "warm-tail")  # a model that is best in all slices is best in the warm tail, too


@dataclass(frozen=True)
class Recalls:
    """The recall of each model and slice, and the measured differences with their intervals."""

    rows: Mapping[tuple[str, str], Mapping[str, Any]]  # (model or difference, slice) -> its row

    def value(self, model: str, part: str) -> float:
        """Return the recall of a model in a slice."""
        return float(self.rows[model, part]["value"])

    def sign(self, model: str, other: str, part: str) -> int:
        """Return 1 if the model recalls more than the other, -1 if it recalls less, 0 if it recalls as much.

        The difference decides. It is measured against SSL and no SSL; two baselines are compared by their figures.
        """
        for one, two, turn in ((model, other, 1), (other, model, -1)):
            row = self.rows.get((f"{one} - {two}", part))
            if row is not None:
                return turn * sign_of(row, part)
        mine, its = self.value(model, part), self.value(other, part)
        return (mine > its) - (mine < its)


def sign_of(difference: Mapping[str, Any], part: str) -> int:
    """Return 1 or -1 for a certain difference in a slice, 0 for a tie: its row of metrics.parquet -> sign.

    A difference is certain if its interval excludes 0. The interval of one seed leaves out the spread of the seeds, so
    such a difference must also exceed SEED_SPREAD; a slice without one takes the largest.
    """
    if difference["low"] is None:  # no pairs, or all of one query
        return 0
    spread = SEED_SPREAD.get(part, max(SEED_SPREAD.values())) if difference["seeds"] == 1 else 0.0
    value, low, high = (difference[name] for name in ("value", "low", "high"))
    return int(low > 0 and value > spread) - int(high < 0 and -value > spread)


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
    why = _why(recalls, picked, [name for name in names if name != picked], parts)
    seeds = recalls.rows[OWN, "all"]["seeds"]
    doubt = f"; one seed: a difference of up to {SEED_SPREAD['all']} of all pairs counts as a tie" if seeds == 1 else ""
    return f"serve {TITLES[picked]}: {why}{doubt}"


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
