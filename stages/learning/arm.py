"""An arm: the settings of a model to train and measure in memory, without files of its own."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from stages.options import values_of
from stages.run_folder import layout, reader

from . import drawn_views, hardware, recency, training_inputs
from .fit import Fit, new_fit
from .settings import TrainSettings, used_values
from .training_inputs import TRAINING_READS
from .view_settings import ViewSettings, variants_of

if TYPE_CHECKING:
    import torch

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
