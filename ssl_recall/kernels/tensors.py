"""Apply a function to every tensor of a structure: to move it to a device, or to pin it."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def with_each(whole: _T, of: Callable[[Tensor], Tensor]) -> _T:
    """Copy a dataclass with `of` applied to each tensor, at any depth; other values stay as they are."""
    copy: _T = _with_each(whole, of)
    return copy


def _with_each(part: Any, of: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, Tensor):
        return of(part)
    if isinstance(part, dict):
        return {name: _with_each(inner, of) for name, inner in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{name: _with_each(inner, of) for name, inner in vars(part).items()})
    return part
