"""The arms of an ablation: their settings, and training one in memory."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from stages.learning import drawn_views, hardware, recency, training_inputs
from stages.learning.fit import Fit, new_fit
from stages.learning.popularity_settings import PopularitySettings
from stages.learning.settings import TrainSettings, used_values
from stages.learning.training_inputs import TRAINING_READS
from stages.learning.view_settings import IdView, Transform, ViewSettings, variants_of
from stages.options import Settings, from_values, values_of
from stages.run_folder import layout, reader
from stages.terminal import settings_file
from stages.terminal.errors import SettingsError

if TYPE_CHECKING:
    import torch

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
TUNED_POPULARITY = {"half_life"}  # the settings of compute-popularity that `tune` searches
READS = (*TRAINING_READS, layout.MUTUAL_INFORMATION)  # only the draws of views read the last one


@dataclass(frozen=True)
class Arm:
    """A model to train: the settings of `train` and, with self-supervision, of `build-views`."""

    name: str
    train: TrainSettings
    views: ViewSettings | None
    changed: frozenset[str]  # the settings that define the arm
    bf16: bool | None = None  # None until `with_precision` decides
    popularity: Mapping[str, Any] = field(default_factory=dict)  # changes to compute-popularity, which the run has

    @property
    def values(self) -> dict[str, Any]:
        """Return every setting that the arm uses, by name; the only name that two stages have is the seed."""
        views = values_of(self.views) if self.views is not None else {}
        return {**self.popularity, **views, **used_values(self.train)}

    def seeded(self, seed: int) -> "Arm":
        """Return the arm with this seed of first weights, batches and views; all arms of one seed draw the same."""
        views = None if self.views is None else replace(self.views, seed=seed)
        return replace(self, train=replace(self.train, seed=seed), views=views)

    def tuned(self, values: Mapping[str, Any]) -> "Arm":
        """Return the arm with other values, except for the settings that define it."""
        others = {name: value for name, value in values.items() if name not in self.changed}
        train = replace(self.train, **{name: others[name] for name in used_values(self.train).keys() & others.keys()})
        views = self.views
        if views is not None:
            views = replace(views, **{name: others[name] for name in values_of(views).keys() & others.keys()})
        popularity = {**self.popularity, **{name: others[name] for name in TUNED_POPULARITY & others.keys()}}
        return replace(self, train=train, views=views, popularity=popularity)

    def as_json(self) -> dict[str, Any]:
        """Return the settings under `train`, `views` and, if any, `popularity`, as keys and rank files store them."""
        train = used_values(self.train) | ({} if self.bf16 is None else {"bf16": self.bf16})
        views = None if self.views is None else values_of(self.views)
        return {"train": train, "views": views} | ({"popularity": dict(self.popularity)} if self.popularity else {})

    def key(self, inputs: Mapping[str, str], *more: object) -> str:
        """Hash everything that the result depends on: version, settings, sha256 of the inputs, and `more`."""
        measured = layout.MUTUAL_INFORMATION
        read = {name: sha for name, sha in inputs.items() if self.views is not None or name != measured}
        text = json.dumps([version("ssl-recall"), *self.as_json().values(), read, more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


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


def with_precision(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Decide on bf16 once for all arms and workers, because a second measurement may decide otherwise."""
    place = hardware.device_of(next(iter(arms.values())).train.device)
    takes = {
        precision: hardware.takes_bf16(precision, place) for precision in {arm.train.precision for arm in arms.values()}
    }
    return {name: replace(arm, bf16=takes[arm.train.precision]) for name, arm in arms.items()}


def trained(job: reader.Reader, arm: Arm, place: "torch.device") -> Fit:
    """Draw the views of an arm, weigh the interactions, and train it, in memory."""
    from ssl_recall.data.packed_views import pack_views

    assert arm.bf16 is not None, "with_precision decides"
    packed = None
    if arm.views is not None:
        items = training_inputs.encoded_side(job, layout.ITEMS, job.read(layout.FEATURES).filter(side="item"))
        drawn = drawn_views.draw_views(job, items, arm.views)
        packed = pack_views(drawn, items.offsets, len(items.names), variants_of(arm.views, items.rows))
    weighted = recency.settings_of(job, arm.popularity)
    fit = new_fit(job, arm.train, place, bf16=arm.bf16, views=packed, weighted=weighted)
    fit.run()
    return fit
