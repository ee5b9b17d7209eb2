"""Codes with a fixed meaning, and the kinds of features; importing this module loads no torch."""

from enum import StrEnum

CODE = "__code"  # suffix of the name of a column of codes
DEFAULT, UNKNOWN, FIRST = 0, 1, 2
PRESENT = UNKNOWN  # a dense feature has no vocabulary: its code only marks whether the vector is present


class Kind(StrEnum):
    """The kind of a feature column."""

    ID = "id"
    CATEGORICAL = "categorical"
    MULTI_VALUED = "multi-valued"
    NUMERIC = "numeric"
    DENSE = "dense"
