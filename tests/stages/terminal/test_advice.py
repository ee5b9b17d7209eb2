"""What to serve, worked by hand from figures and intervals."""

import polars as pl
import pytest

from stages.terminal.advice import advice

PARTS = ("all", "head", "tail", "cold")
Values = tuple[float | None, ...]


def frame(models: dict[str, Values], ties: set[tuple[str, str, str]] = frozenset(), seeds: int = 3) -> pl.DataFrame:  # type: ignore[assignment]
    """Return metrics.parquet for some recalls; a difference is significant unless (new, old, slice) is among `ties`."""
    rows = [
        (name, part, value, value, value)
        for name, own in models.items()
        for part, value in zip(PARTS, own, strict=True)
    ]
    for new in ("no-ssl", "ssl"):
        for old in models:
            if new not in models or old == new or (new, old) == ("no-ssl", "ssl"):
                continue
            for part, one, two in zip(PARTS, models[new], models[old], strict=True):
                if one is not None and two is not None:
                    half = 1.0 if (new, old, part) in ties else 1e-9
                    rows.append((f"{new} - {old}", part, one - two, one - two - half, one - two + half))
                else:
                    rows.append((f"{new} - {old}", part, None, None, None))
    table = pl.DataFrame(rows, schema=["model", "slice", "value", "low", "high"], orient="row")
    sizes = pl.when(pl.col("value").is_null()).then(0).otherwise(900).alias("n")
    told = {"metric": "recall", "k": 50, "seeds": seeds}
    return table.with_columns(sizes, *(pl.lit(value).alias(name) for name, value in told.items()))


POPULAR = (0.1, 0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("models", "ties", "expected"),
    [
        (
            {"most-popular": POPULAR, "no-ssl": (0.5, 0.6, 0.2, 0.1), "ssl": (0.6, 0.7, 0.3, 0.2)},
            [],
            "serve SSL: it is best in all slices",
        ),
        (
            {"most-popular": POPULAR, "item-knn": (0.5, 0.651, 0.1, 0.0), "ssl": (0.6, 0.509, 0.3, 0.2)},
            [],
            "serve SSL: best of all pairs, of the tail and of cold items; "
            "ItemKNN recalls more of the head (0.651 to 0.509)",
        ),
        (
            {"most-popular": POPULAR, "item-knn": (0.382, 0.5, 0.2, 0.0), "ssl": (0.352, 0.4, 0.2, 0.29)},
            [("ssl", "item-knn", "tail")],
            "serve ItemKNN: it recalls more than SSL of all pairs (0.382 to 0.352) and of the head; "
            "SSL recalls more of cold items (0.290 to 0)",
        ),
        (  # as much of all pairs, more of the tail: SSL, although its figure is lower
            {"item-knn": (0.51, 0.6, 0.1, 0.0), "no-ssl": (0.3, 0.3, 0.1, 0.0), "ssl": (0.5, 0.5, 0.3, 0.0)},
            [("ssl", "item-knn", "all"), ("ssl", "item-knn", "cold"), ("ssl", "no-ssl", "cold")],
            "serve SSL: best of the tail; it recalls as much of all pairs as ItemKNN (0.500 and 0.510); "
            "ItemKNN recalls more of the head (0.600 to 0.500)",
        ),
        (  # as much of all pairs, of the tail and of cold items: the higher figure
            {"most-popular": POPULAR, "no-ssl": (0.141, 0.2, 0.1, 0.1), "ssl": (0.14, 0.21, 0.1, 0.1)},
            [("ssl", "no-ssl", part) for part in PARTS] + [("ssl", "most-popular", "head")],
            "serve no SSL: it recalls as much of all pairs as SSL (0.141 and 0.140)",
        ),
        (
            {"most-popular": POPULAR, "no-ssl": (0.14, 0.2, 0.1, 0.1), "ssl": (0.141, 0.2, 0.1, 0.1)},
            [("ssl", "no-ssl", part) for part in PARTS] + [("ssl", "most-popular", "head")],
            "serve SSL: it recalls as much of all pairs as no SSL (0.141 and 0.140)",
        ),
        (  # two baselines have no interval between them: their figures decide
            {"item-knn": (0.4, 0.5, 0.1, 0.0), "ease": (0.41, 0.55, 0.05, 0.0), "ssl": (0.3, 0.4, 0.02, 0.0)},
            [("ssl", name, "cold") for name in ("item-knn", "ease")],
            "serve EASE: it recalls more than SSL of all pairs (0.410 to 0.300), of the head and of the tail; "
            "ItemKNN recalls more of the tail (0.100 to 0.050)",
        ),
        (  # significantly below one model in all pairs: no preference for SSL
            {"item-knn": (0.5, 0.5, 0.1, 0.0), "ease": (0.45, 0.5, 0.1, 0.0), "ssl": (0.449, 0.4, 0.3, 0.2)},
            [("ssl", "ease", "all")],
            "serve ItemKNN: it recalls more than SSL of all pairs (0.500 to 0.449) and of the head; "
            "SSL recalls more of the tail (0.300 to 0.100) and of cold items (0.200 to 0)",
        ),
        (
            {"most-popular": (0.133, 0.288, 0.0, None), "ssl": (0.12, 0.25, 0.01, None)},
            [("ssl", "most-popular", "tail")],
            "serve most popular: it recalls more than SSL of all pairs (0.133 to 0.120) and of the head",
        ),
        (
            {"most-popular": (0.1, 0.2, 0.0, None), "ssl": (0.2, 0.3, 0.1, None)},
            [],
            "serve SSL: it is best in all slices",
        ),
    ],
)
def test_what_to_serve(models: dict[str, Values], ties: list[tuple[str, str, str]], expected: str) -> None:
    assert advice(frame(models, set(ties)), 50) == expected


@pytest.mark.parametrize(
    ("part", "tied", "expected"),
    [
        ("new-queries", False, "serve SSL: it is best in all slices"),
        ("new-queries", True, "serve SSL: best of all pairs, of the head, of the tail and of cold items"),
        ("warm-tail", True, "serve SSL: best of all pairs, of the head, of the tail and of cold items"),
    ],
)
def test_best_in_all_slices_holds_for_new_queries_and_the_warm_tail(part: str, tied: bool, expected: str) -> None:
    plain = frame({"most-popular": POPULAR, "ssl": (0.6, 0.7, 0.3, 0.2)})
    low = pl.when(pl.col("model") == "ssl - most-popular").then(-0.1 if tied else 0.1).otherwise("low").alias("low")
    more = plain.filter(slice="all").with_columns(pl.lit(part).alias("slice"), low)
    assert advice(pl.concat([plain, more]), 50) == expected


CLOSE = {"most-popular": POPULAR, "no-ssl": (0.5, 0.6, 0.2, 0.1), "ssl": (0.51, 0.61, 0.23, 0.11)}
DOUBT = "; one seed: a difference of up to 0.011 of all pairs counts as a tie"


def test_a_small_difference_of_one_seed_is_a_tie() -> None:
    assert advice(frame(CLOSE), 50) == "serve SSL: it is best in all slices"
    said = "serve SSL: best of the tail; it recalls as much of all pairs as no SSL (0.510 and 0.500)"
    assert advice(frame(CLOSE, seeds=1), 50) == said + DOUBT


def test_a_large_difference_of_one_seed_is_a_tie_if_its_interval_has_zero() -> None:
    far = CLOSE | {"ssl": (0.6, 0.7, 0.3, 0.2)}
    assert advice(frame(far, seeds=1), 50) == "serve SSL: it is best in all slices" + DOUBT
    said = advice(frame(far, {("ssl", "no-ssl", "all")}, seeds=1), 50)
    assert said.startswith(
        "serve SSL: best of the head, of the tail and of cold items; it recalls as much of all pairs"
    )
