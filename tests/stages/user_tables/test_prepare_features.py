"""prepare on columns of every kind: lists, numbers, vectors, empty or constant ones, and declared ones."""

from collections.abc import Callable

import polars as pl
import pytest

Prepared = Callable[..., dict[str, pl.DataFrame]]
CATALOGUE = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "colour": ["red", "blue", "red", None],
        "tags": [["x", "y", "x"], [], None, [None]],
        "price": [1.0, 2.0, 3.0, None],
    }
)
LOG = pl.DataFrame({"query_id": ["u", "u", "v", "v", "w"], "item_id": ["b", "a", "a", "c", "a"]})


def words(found: dict[str, pl.DataFrame], name: str) -> dict[str, int]:
    return dict(found["vocabulary"].filter(vocabulary=name).select("value", "code").iter_rows())


def test_lists_lose_repetitions_and_the_least_telling_values_beyond_the_limit_but_no_item(
    prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = [["x", "x", "y", "z"], ["y", None, "z"], [], ["z", None]]
    items = CATALOGUE.with_columns(tags=pl.Series(lists))
    found = prepared(LOG, items, item_features=["tags=multi-valued,max_values=2,min_count=2"])
    assert words(found, "tags") == {"z": 2, "y": 3}  # x stands in one row
    assert found["items"]["tags__code"].to_list() == [[3, 2], [3, 2], [], [2]]
    assert found["items"]["tags"].to_list() == lists
    assert found["items"].height == 4
    assert (
        "1 rows hold more than 2 values of 'tags'; the rarest that at least two rows have are kept; "
        "[prepare] max_values keeps more" in capsys.readouterr().err
    )


def test_constant_missing_and_doubled_features_survive(prepared: Prepared) -> None:
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "same": ["x"] * 3, "none": [None] * 3, "twin": ["x"] * 3},
        schema_overrides={"none": pl.Float64},
    ).with_columns(
        nothing=None,
        empty=pl.lit(None, pl.List(pl.String)),
        flat=pl.lit(2.5),
        blank=pl.lit(None, pl.Array(pl.Float32, 3)),
    )
    found = prepared(LOG, items)
    codes = found["features"].filter(side="item").select("feature", "codes", "width", "missing").rows()
    assert codes[1:] == [
        ("same", 3, 0, 0.0),
        ("none", 2, 0, 1.0),
        ("twin", 3, 0, 0.0),
        ("nothing", 2, 0, 1.0),
        ("empty", 2, 0, 1.0),
        ("flat", 3, 0, 0.0),
        ("blank", 2, 3, 1.0),
    ]
    assert found["items"]["none__code"].to_list() == [0, 0, 0]


def test_a_dense_column_is_there_or_missing(prepared: Prepared) -> None:
    vectors = pl.Series([[1.0, 2.0], None, [0.0, 1.0], [2.0, 2.0]], dtype=pl.Array(pl.Float64, 2))
    items = CATALOGUE.select("item_id").with_columns(picture=vectors, sound=vectors.cast(pl.List(pl.Float64)))
    found = prepared(LOG, items, item_features=["sound=dense"])
    for name in ("picture", "sound"):
        assert found["items"][f"{name}__code"].to_list() == [1, 0, 1, 1]
        assert found["items"][name].to_list() == [[1.0, 2.0], None, [0.0, 1.0], [2.0, 2.0]]
        assert found["features"].filter(feature=name).select("kind", "codes", "width").rows() == [("dense", 2, 2)]


def test_declarations_decide_over_the_types(prepared: Prepared) -> None:
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "year": [1999, 2001, 2001], "words": ["x,y", "y", ""], "secret": ["s"] * 3}
    ).with_columns(score=pl.Series([1.0, float("nan"), 2.0]), **{"a=b,c": pl.Series([1, 2, 3])})
    declared = [
        "year=numeric,buckets=2",
        "words=multi-valued, separator=,",
        "secret=exclude",
        "score=numeric,nan=missing",
        "a=b,c=categorical",
    ]
    found = prepared(LOG, items, item_features=declared)
    assert dict(found["features"].filter(side="item").select("feature", "kind").iter_rows()) == {
        "item_id": "id",
        "year": "numeric",
        "words": "multi-valued",
        "score": "numeric",
        "a=b,c": "categorical",
    }
    assert found["items"]["words__code"].to_list() == [[3, 2], [2], []]
    assert found["items"]["score__code"].to_list()[1] == 0
    assert "secret" not in found["items"].columns
