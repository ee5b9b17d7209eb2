"""What an arm of an ablation is, and training one in memory."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import build_views, fitting, models, processor, reader, train
from . import config as config_file
from .build_views import IdView, Transform
from .errors import SettingsError

if TYPE_CHECKING:
    import torch


BASE = "no-ssl"  # what every arm is compared with
OWN = "ssl"  # the settings as they are
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
WITHOUT = ("no-warm-up", "no-neighbours")  # are `ssl` less a part, and take what was found for it
MEASURED = "mutual_information.parquet"  # what only the views are drawn from
READS = (*train.READS, MEASURED)


@dataclass(frozen=True)
class Arm:
    """A model to train: settings of `train`, and of `build-views` where it has the self-supervised task."""

    name: str
    train: dict[str, Any]
    views: dict[str, Any] | None
    changed: frozenset[str]  # the settings that make it this arm

    @property
    def settings(self) -> dict[str, Any]:
        """Give all its settings under one roof; the two stages share no name but the seed."""
        return (self.views or {}) | self.train

    def seeded(self, seed: int) -> "Arm":
        """Give the arm with a seed of first weights, batches and views: the same ones as every other arm with it."""
        views = None if self.views is None else self.views | {"seed": seed}
        return replace(self, train=self.train | {"seed": seed}, views=views)

    def tuned(self, settings: Mapping[str, Any]) -> "Arm":
        """Give the arm with other settings, but for those that make it this arm."""
        others = {name: value for name, value in settings.items() if name not in self.changed}
        train, views = (
            None if own is None else own | {name: others[name] for name in own.keys() & others.keys()}
            for own in (self.train, self.views)
        )
        assert train is not None, "every arm is trained"
        return replace(self, train=train, views=views)

    def key(self, inputs: Mapping[str, str], *more: object) -> str:
        """Hash what the result depends on: the version, the settings, the content of what is read, and the rest."""
        read = {name: sha for name, sha in inputs.items() if self.views is not None or name != MEASURED}
        told = json.dumps([version("ssl-recall"), self.train, self.views, read, more], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def known(ctx: typer.Context, config: Path | None) -> dict[str, Arm]:
    """Give every arm there is, those of the settings file too, on top of its [build-views] and [train].

    Raises SettingsError for a value that the two commands refuse.
    """
    own = config_file.arms(config)
    plain(ctx, config)  # what is wrong there is no arm's fault
    found = {}
    for name in ARMS | own:
        changed = ARMS.get(name, {}) | own.get(name, {})
        try:
            views, trained = (_settings(ctx, config, stage, changed) for stage in config_file.ARM_STAGES)
        except typer.BadParameter as error:
            raise SettingsError(f"{config}: [ablate.arms.{name}]: {error.format_message()}", "BAD_ARM") from None
        trained = train.used(trained) | {"threads": 1}
        found[name] = Arm(name, trained, views if trained["ssl"] else None, frozenset(changed))
    return found


def plain(ctx: typer.Context, config: Path | None) -> dict[str, dict[str, Any]]:
    """Give the settings of build-views and of train as the settings file has them, those of both models."""
    views, trained = (_settings(ctx, config, stage) for stage in config_file.ARM_STAGES)
    return {"build-views": views, "train": train.used(trained | {"ssl": True})}


def chosen(arms: Mapping[str, Arm], names: Iterable[str]) -> dict[str, Arm]:
    """Pick arms by name, each once, in the order of all. Raises SettingsError for an unknown one."""
    wanted = set(names)
    for name in sorted(wanted - arms.keys()):
        near = config_file.nearest(name, arms, dashes=True)
        raise SettingsError(f"--arm {name}: is no arm{near}; there are {', '.join(arms)}", "UNKNOWN_ARM")
    return {name: arm for name, arm in arms.items() if name in wanted}


def _settings(
    ctx: typer.Context, config: Path | None, stage: str, changed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Give what a command would take from the settings file and from flags that say what is changed."""
    assert ctx.parent is not None, "a subcommand"
    command = getattr(ctx.parent.command, "commands", {})[stage]
    names = {str(parameter.name) for parameter in command.params}
    flags = ["--config", str(config)] if config else []
    for name, value in (changed or {}).items():
        flags += config_file.flags(name, value) if name in names else []
    params = command.make_context(stage, flags, parent=ctx.parent).params
    return {name: value for name, value in params.items() if name not in {"run", "config", "force"}}


def with_precision(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Decide once, for all arms and workers, whether products are bf16: it is measured, and might come out other."""
    place = models.device_of(next(iter(arms.values())).train["device"])
    wanted = {name: processor.Precision(arm.train["precision"]) for name, arm in arms.items()}
    takes = {precision: processor.takes_bf16(precision, place) for precision in set(wanted.values())}
    return {name: replace(arm, train=arm.train | {"bf16": takes[wanted[name]]}) for name, arm in arms.items()}


def trained(job: reader.Reader, arm: Arm, place: "torch.device") -> fitting.Fit:
    """Draw the arm's views and train it, all in memory."""
    from ssl_recall import views

    masks = None
    if arm.views is not None:
        table = models.table(job, "items.parquet", job.read("features.parquet").filter(side="item"))
        drawn = build_views.drawn(job, table, arm.views)
        masks = views.packed(drawn, table.offsets, len(table.names), build_views.variants_of(arm.views, table.rows))
    return fitting.fitted(job, arm.train, place, "", masks)
