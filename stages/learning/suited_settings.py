"""Settings of `train` that suit a log, each with its reason; `init` writes them down (docs/decisions)."""

from .settings import TrainSettings
from .short_logs import largest_batch

TAKEN = 20  # items of a user's history
MANY_ITEMS = 50_000  # a wide embedding of more items costs more memory and time than it brings
WARM_UP_EPOCHS = 2  # at most, of the self-supervised task alone

Reasons = dict[str, tuple[object, str]]  # setting -> its value, and the reason for it


def for_a_log(interactions: int, items: int, *, queries_are_items: bool) -> Reasons:
    """Return the settings of `train` that should differ from the defaults for this log, each with its reason."""
    found = _for_a_short_log(interactions, items)
    return found if queries_are_items else found | _for_users(interactions, items, found)


def _for_a_short_log(interactions: int, items: int) -> Reasons:
    defaults = TrainSettings()
    found: Reasons = {}
    if (size := largest_batch(interactions)) < defaults.batch_size:
        found["batch_size"] = size, f"{interactions:,} interactions are few for {defaults.batch_size}."
    if items < defaults.ssl_batch_size:
        found["ssl_batch_size"] = max(items, 2), f"There are {items:,} items."
    if interactions < items:  # most items are cold: the head is soon overfitted, and easily lost
        why = f"{interactions:,} interactions are few for {items:,} items."
        found |= {"temperature": (0.1, why), "ssl_weight": (0.03, why)}
    return found


def _for_users(interactions: int, items: int, short: Reasons) -> Reasons:
    """Return the settings for queries that are users: a user is what he took."""
    why = "Queries are users: a user is what he took."
    found: Reasons = {
        "history": (TAKEN, why),
        "width": (128, why),
        "temperature": (0.1, why),
        "further_negatives": (2048, why),
        "epochs": (20, why),
    }
    if items <= MANY_ITEMS:
        found["embedding_width"] = 128, f"{why} {items:,} items have room for wide vectors."
    batch = short["batch_size"][0] if "batch_size" in short else TrainSettings().batch_size
    assert isinstance(batch, int), "a number of rows"
    steps = WARM_UP_EPOCHS * max(interactions // batch, 1)
    if steps < TrainSettings().ssl_warmup_steps:
        found["ssl_warmup_steps"] = steps, f"{WARM_UP_EPOCHS} passes over {interactions:,} interactions."
    return found
