"""Split the interactions into train, validation and test."""

from typing import TYPE_CHECKING

from stages.terminal.errors import InputError, SettingsError

from .interactions import CheckedInteractions
from .settings import PrepareSettings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray


def split_interactions(found: CheckedInteractions, items: "pl.Series", settings: PrepareSettings) -> "NDArray[np.int8]":
    """Return each interaction's index in `splits.SIDES`: by time if there is one, else by a hash of the pair.

    `train_fraction` marks some training interactions LEFT_OUT. Raises InputError if none is left to train on.
    """
    from ssl_recall.data import splits

    log = found.log
    if log.is_empty():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    shares = settings.validation_share, settings.test_share
    if sum(shares) >= 1:
        raise SettingsError(f"--validation-share and --test-share leave nothing to train on: {shares}", "SHARES")
    pairs = log["query_index"].to_numpy(), log["item_index"].to_numpy()
    try:
        if "timestamp" in log.columns:
            side = splits.by_time(log["timestamp"], *shares)
        else:
            side = splits.by_hash(found.queries, items, pairs, *shares, settings.seed)
    except ValueError as error:
        raise InputError(f"{error}; without --timestamp the split is by a hash of the pair", "TIME") from None
    if settings.train_fraction < 1:
        kept = splits.thinned(found.queries, items, pairs, settings.train_fraction, settings.seed)
        side[(side == splits.TRAIN) & ~kept] = splits.LEFT_OUT
    if not (side == splits.TRAIN).any():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    return side
