"""What can go wrong by no fault of ours, and the exit code that scripts see."""


class StageError(Exception):
    """A problem that the user can mend; `rule` is a stable name that scripts may match."""

    code = 70

    def __init__(self, message: str, rule: str = "") -> None:
        """Keep the rule beside the message: `DUP_ITEM_ID: items.parquet: ...`."""
        super().__init__(f"{rule}: {message}" if rule else message)
        self.rule = rule


class SettingsError(StageError):
    """A flag, a settings file or an argument is wrong (exit 2)."""

    code = 2


class InputError(StageError):
    """The user's tables are wrong (exit 3)."""

    code = 3


class ArtifactError(StageError):
    """An artifact is missing, stale or corrupt (exit 4)."""

    code = 4


class NumberError(StageError):
    """A loss or a weight is not finite (exit 6)."""

    code = 6


class LockedError(StageError):
    """Another process works in this run folder (exit 75)."""

    code = 75
