"""The settings of `compute-popularity`. Training draws interactions by the same half-life and window."""

from dataclasses import dataclass
from typing import Annotated, Any

from typer import Option

from stages.options import recorded
from stages.terminal.errors import SettingsError

SHORTEST, LONGEST = 1e-6, 1e9  # days
BY_AGE = ("half_life", "window")


@dataclass(frozen=True)
class PopularitySettings:
    """Every flag of `compute-popularity` but the run folder's."""

    unseen_count: Annotated[
        float,
        Option(min=1e-6, max=1.0, help="Count of a cold item, in interactions; no item counts less."),
    ] = 0.01
    half_life: Annotated[
        float | None,
        Option(
            min=SHORTEST,
            max=LONGEST,
            help="Days after which an interaction counts half, in p and in the draws of training. [default: off]",
        ),
    ] = None
    window: Annotated[
        float | None,
        Option(
            min=SHORTEST,
            max=LONGEST,
            help="Days before the newest training interaction; older ones have no weight in p and are not drawn in "
            "training. [default: off]",
        ),
    ] = None

    @property
    def by_age(self) -> bool:
        """Tell whether interactions are weighted by their age."""
        return self.half_life is not None or self.window is not None


def recorded_popularity(settings: PopularitySettings) -> dict[str, Any]:
    """Return the settings for the manifest; half-life and window only in use, as version 0.2.0 had neither."""
    return {name: value for name, value in recorded(settings).items() if name not in BY_AGE or value is not None}


def check(settings: PopularitySettings, *, timed: bool) -> None:
    """Refuse a half-life and a window unless the log has times (`timed`). Raises SettingsError."""
    for name in BY_AGE:
        if getattr(settings, name) is not None and not timed:
            text = f"[compute_popularity] {name} needs times: give timestamp under [prepare], or leave {name} out"
            raise SettingsError(text, "NO_TIME")
