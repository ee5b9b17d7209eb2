"""The arms of an ablation: their names and settings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from stages.learning.arm import Arm
from stages.learning.popularity_settings import PopularitySettings
from stages.learning.settings import TrainSettings
from stages.learning.view_settings import IdView, Transform, ViewSettings
from stages.options import Settings, from_values
from stages.terminal import settings_file
from stages.terminal.errors import SettingsError

_Settings = TypeVar("_Settings", bound=Settings)

BASE = "no-ssl"  # every arm is compared with it
OWN = "ssl"  # the settings of [train] and [build-views], unchanged
VIEWS_ALONE = {"ssl": True, "ssl_warmup_steps": 0, "ssl_neighbour_weight": 0.0, "ssl_every": 1}  # as in the paper
ARMS: dict[
    str, dict[str, Any]
] = {  # changes to the settings of build-views and train: the rows of Yao et al., and ours
    BASE: {"ssl": False},
    "feature-dropout": {"ssl": False, "feature_dropout": 0.3},
    "spread-out": VIEWS_ALONE | {"transform": Transform.DROPOUT, "value_dropout": 0.0, "id_view": IdView.KEPT},
    "value-dropout": VIEWS_ALONE | {"transform": Transform.DROPOUT},
    "complementary": VIEWS_ALONE | {"transform": Transform.COMPLEMENTARY},
    "random-mask": VIEWS_ALONE | {"transform": Transform.RANDOM_MASK},
    "correlated-no-dropout": VIEWS_ALONE | {"transform": Transform.CORRELATED, "value_dropout": 0.0},
    "correlated": VIEWS_ALONE | {"transform": Transform.CORRELATED},
    "no-warm-up": {"ssl": True, "ssl_warmup_steps": 0},
    "no-neighbours": {"ssl": True, "ssl_neighbour_weight": 0.0},
    OWN: {"ssl": True},
}
WITHOUT = ("no-warm-up", "no-neighbours")  # `ssl` without one part; they take the tuned settings of `ssl`


@dataclass(frozen=True)
class Plain:
    """The settings of [build-views], [train] and [compute-popularity], without the changes of an arm."""

    views: ViewSettings
    train: TrainSettings
    popularity: PopularitySettings


def known(ctx: typer.Context, config: Path | None) -> dict[str, Arm]:
    """Return every arm, built in or of the settings file: its changes to [build-views] and [train].

    Raises SettingsError for a value that the two commands refuse.
    """
    own = settings_file.arms(config)
    plain(ctx, config)  # so that an error in [train] or [build-views] names no arm
    found = {}
    for name in ARMS | own:
        changed = ARMS.get(name, {}) | own.get(name, {})
        try:
            views = _stage_settings(ctx, config, "build-views", ViewSettings, changed)
            train = _stage_settings(ctx, config, "train", TrainSettings, changed)
        except typer.BadParameter as error:
            raise SettingsError(f"{config}: [ablate.arms.{name}]: {error.format_message()}", "BAD_ARM") from None
        train = replace(train, threads=1)
        found[name] = Arm(name, train, views if train.ssl else None, frozenset(changed))
    return found


def plain(ctx: typer.Context, config: Path | None) -> Plain:
    """Read [build-views], [train], with SSL, and [compute-popularity] from the settings file."""
    views = _stage_settings(ctx, config, "build-views", ViewSettings, {})
    train = replace(_stage_settings(ctx, config, "train", TrainSettings, {}), ssl=True)
    return Plain(views, train, _stage_settings(ctx, config, "compute-popularity", PopularitySettings, {}))


def chosen(arms: Mapping[str, Arm], names: Iterable[str]) -> dict[str, Arm]:
    """Pick arms by name, in the order of `arms`. Raises SettingsError for an unknown name."""
    wanted = set(names)
    for name in sorted(wanted - arms.keys()):
        near = settings_file.nearest(name, arms, dashes=True)
        raise SettingsError(f"--arm {name}: is no arm{near}; there are {', '.join(arms)}", "UNKNOWN_ARM")
    return {name: arm for name, arm in arms.items() if name in wanted}


def _stage_settings(
    ctx: typer.Context, config: Path | None, stage: str, settings: type[_Settings], changed: Mapping[str, Any]
) -> _Settings:
    """Parse a command's settings from the settings file, overridden by `changed`."""
    assert ctx.parent is not None, "a subcommand"
    command = getattr(ctx.parent.command, "commands", {})[stage]
    flags = ["--config", str(config)] if config else []
    for name, value in changed.items():
        flags += settings_file.flags(name, value) if name in settings.__dataclass_fields__ else []
    return from_values(settings, command.make_context(stage, flags, parent=ctx.parent).params)
