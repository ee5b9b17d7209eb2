"""The problems that the user can mend, with the exit codes that scripts see."""


class StageError(Exception):
    """A problem that the user can mend; `rule` is a stable name that scripts may match."""

    code = 70

    def __init__(self, message: str, rule: str = "") -> None:
        """Put the rule before the message: `DUP_ITEM_ID: items.parquet: ...`."""
        super().__init__(f"{rule}: {message}" if rule else message)
        self.message, self.rule = message, rule


class SettingsError(StageError):
    """A flag, a settings file or an argument is wrong (exit 2)."""

    code = 2


class InputError(StageError):
    """The user's tables are wrong (exit 3)."""

    code = 3


class ArtifactError(StageError):
    """An artifact is missing, stale or corrupt (exit 4)."""

    code = 4


class MemoryShortError(StageError):
    """Memory cannot suffice for the stage (exit 5)."""

    code = 5


class NumberError(StageError):
    """A loss or a weight is not finite (exit 6)."""

    code = 6


class CheckpointError(StageError):
    """There are checkpoints, but training can resume from none (exit 7)."""

    code = 7


class Stopped(StageError):  # noqa: N818  (no error: a person sent the signal)
    """A signal stopped the stage; its progress is saved (exit 130 or 143)."""

    def __init__(self, message: str, number: int) -> None:
        """Set the exit code from the signal's number."""
        super().__init__(message)
        self.code = 128 + number


class LockedError(StageError):
    """Another process works in this run folder (exit 75)."""

    code = 75
