"""Checkpoints of a training: all of its state after a step, in one safetensors file whose name carries its sha256.

A file appears whole or not at all, two are kept, and one whose content is not what its name says is passed over.
"""

import contextlib
import errno
import json
import os
import platform
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import artifacts, console, manifest, publish
from . import config as config_file
from .errors import CheckpointError, Stopped
from .fitting import LOSSES
from .signals import Asked

if TYPE_CHECKING:
    import torch

    from .fitting import Fit

FOLDER = "checkpoints"
KEPT = 2
SCHEMA = 1
NAME = re.compile(r"(?P<step>\d{10})-(?P<sha256>[0-9a-f]{64})\.safetensors")
PLACE = ("threads", "device")  # settings that change last digits, not what is learned


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its file, what it is of (`about`), on what it ran (`place`), where it stands (`state`)."""

    path: Path
    about: dict[str, Any]
    place: dict[str, Any]
    state: dict[str, Any]

    @property
    def bf16(self) -> bool:
        """Tell whether matrix products were taken in bfloat16."""
        return bool(self.place.get("bf16"))

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Read its tensors."""
        from safetensors.torch import load_file

        return load_file(self.path)


class Keeper:
    """Finds where a training is to go on, and saves it as it goes, every so many seconds and when a signal comes.

    Raises CheckpointError for checkpoints that are all damaged, or of other data or settings; never begins anew by
    itself where there is one.
    """

    def __init__(self, job: artifacts.Job, folder: str, every: float, asked: Asked, *, strict: bool) -> None:
        """Keep the files in the run folder's `folder`; `every` is seconds, 0 saves after each step."""
        self.folder, self.every, self.asked, self.strict = job.run / folder / FOLDER, every, asked, strict
        self.stage, self.resume, self.settings = job.stage, console.same_command(), job.settings
        own = shlex.split(f"{job.stage}{job.flags}")  # in place of `run`, which takes no flags of a training
        self.typed = [part for part in console.typed if part != "--force"] if console.typed[:1] == ["train"] else own
        self.about = _about(version("ssl-recall"), job.settings, job.inputs)
        self.published = job.published()
        self._found: Checkpoint | None = None
        self._saved_at = time.monotonic()
        self._last = ""

    def clear(self) -> None:
        """Remove every checkpoint: what it led to is published, or it is not wanted."""
        for path in self._paths():
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def tidy(self) -> None:
        """Remove what led to what is published; a training that was stopped stays, to be gone on with."""
        for path in self._paths():
            if self.published is not None and led_to(path, self.published):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        if kept := self._paths():
            said = f"keeps {len(kept)} checkpoint{'s' * (len(kept) > 1)} of a training that was stopped"
            with contextlib.suppress(DamagedError):
                said += self._to_go_on(_read(kept[0]))
            console.warn(f"{self.folder}: {said}; to be rid of it remove the folder")

    def find(self) -> Checkpoint | None:
        """Give the newest whole checkpoint, which `begin` goes on from; None where the training begins.

        One that led to what is published counts for nothing, and goes with all others.
        """
        publish.probe(self.folder)
        paths = self._paths()
        for number, path in enumerate(paths):
            try:
                found = _read(path)
            except DamagedError as error:
                console.warn(f"{path}: {error}; taking the one before")
                continue
            if found.about != self.about:
                if self._is_done(found.about):
                    self.clear()
                    return None
                raise CheckpointError(f"{self.folder}: {self._other(found)}; {self._ways()}", "OTHER")
            for damaged in paths[:number]:  # of later steps than those to come, which would be taken for older
                damaged.unlink()
            self._found = found
            return found
        if paths:
            raise CheckpointError(f"{self.folder}: no checkpoint is whole; {self._ways()}", "ALL_DAMAGED")
        return None

    def begin(self, fit: "Fit") -> None:
        """Put the training where the checkpoint that was found has it, if there is one."""
        from safetensors import SafetensorError

        if self._found is None:
            return
        self._check_place(self._found.place, _place(fit))
        try:
            fit.restore(self._found.tensors(), self._found.state)
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            text = f"{self._found.path}: does not fit the model ({error}); {self._ways()}"
            raise CheckpointError(text, "MODEL") from None
        self._last = fit.where()
        console.line(f"{self.stage:<26} goes on from {self._last}")

    def after_step(self, fit: "Fit") -> None:
        """Save when it is time or somebody wants to stop. Raises Stopped in the latter case."""
        if not self.asked.number and time.monotonic() - self._saved_at < self.every:
            return
        if self.save(fit) and self.asked.number:
            raise Stopped(f"stopped after {self._last}, which is saved; to go on run: {self.resume}", self.asked.number)

    def save(self, fit: "Fit") -> bool:
        """Write a checkpoint, and remove all but the newest ones; False, and none, where something is not finite.

        An OSError names the last good one.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        told = {"about": self.about, "place": _place(fit), "state": fit.state()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in fit.tensors().items()}
        if not all(bool(tensor.isfinite().all()) for tensor in (tensors | {LOSSES: fit.totals()}).values()):
            return False  # training says so within a few steps, and what was good stays
        number = f"{fit.steps_taken:010d}"
        temporary = publish.temporary_for(self.folder / f"{number}.safetensors")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"training": json.dumps(told, sort_keys=True)})
            with temporary.open("rb+") as file:
                os.fchmod(file.fileno(), self.folder.stat().st_mode & 0o666)  # safetensors makes it the owner's alone
                publish.sync(file)
            target = self.folder / f"{number}-{publish.sha256(temporary)}.safetensors"
            publish.move_into_place(temporary, target)
        except (OSError, SafetensorError) as error:
            code, text = _os_error(error)
            with contextlib.suppress(OSError):  # where it is empty
                self.folder.rmdir()
            raise OSError(code, f"{self.folder}: {text}; {self.last()}; to go on run: {self.resume}") from None
        finally:
            temporary.unlink(missing_ok=True)
        for path in self._paths()[KEPT:]:
            path.unlink()
        self._saved_at, self._last = time.monotonic(), fit.where()
        return True

    def last(self) -> str:
        """Say where the last good checkpoint stands."""
        return f"the last checkpoint is of {self._last}" if self._last else "there is no checkpoint yet"

    def _paths(self) -> list[Path]:
        """List the checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()), reverse=True
        )

    def _is_done(self, about: Mapping[str, Any]) -> bool:
        """Tell whether a checkpoint led to what is published, and was only not removed."""
        entry = self.published
        return entry is not None and about == _about(entry["version"], entry["settings"], entry["inputs"])

    def _check_place(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differs = _differs(then, now)
        if not differs:
            return
        if self.strict:
            raise CheckpointError(
                f"{self.folder}: {differs}, so the end would not be bit-exact; {self._ways()}", "PLACE"
            )
        console.warn(f"{self.folder}: {differs}: the end is not bit-exact to that of an uninterrupted training")

    def _other(self, found: Checkpoint) -> str:
        """Say how a checkpoint is not of today's training, and which command goes on with it."""
        text = f"a training was stopped here, of other settings or data: {_differs(found.about, self.about)}"
        return text + self._to_go_on(found)

    def _to_go_on(self, found: Checkpoint) -> str:
        """Name the command that goes on with a checkpoint; nothing where other data are what it was of."""
        changed = {name for name in found.about if found.about[name] != self.about.get(name)}
        if changed - self.settings.keys():
            return ""
        flags = [part for name in sorted(changed) for part in config_file.flags(name, found.about[name])]
        names = {name.replace("_", "-"): isinstance(found.about[name], bool) for name in changed}
        valued = {f"--{name}" for name, is_switch in names.items() if not is_switch}
        switches = {f"{dashes}{name}" for name, is_switch in names.items() if is_switch for dashes in ("--", "--no-")}
        kept = console.without(self.typed, valued, switches)
        return f"; to go on with it run: {shlex.join(['ssl-recall', *kept, *flags])}"

    def _ways(self) -> str:
        return f"to begin anew, without it, run: {shlex.join(['ssl-recall', *self.typed, '--force'])}"


def steps_saved(folder: Path) -> int | None:
    """Give the step of the newest checkpoint in a folder, None where there is none; nothing is verified."""
    found = [NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(match["step"]) for match in found if match), default=None)


class DamagedError(Exception):
    """A file is no checkpoint, or not the one that its name says."""


def led_to(path: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint is whole and of the very training that a manifest's entry published."""
    try:
        about = _read(path).about
    except DamagedError:
        return False
    return bool(about == _about(entry["version"], entry["settings"], entry["inputs"]))


def _read(path: Path) -> Checkpoint:
    """Hash a checkpoint and read what is told of it. Raises DamagedError."""
    from safetensors import SafetensorError, safe_open

    named = NAME.fullmatch(path.name)
    assert named is not None, "found by its name"
    try:
        found = publish.sha256(path)
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})") from None
    if found != named["sha256"]:
        raise DamagedError(f"not what was written (sha256 {named['sha256'][:8]}.. then, {found[:8]}.. now)")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["training"])
        return Checkpoint(path, *(dict(told[part]) for part in ("about", "place", "state")))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"is no checkpoint of a training ({error})") from None


def _about(release: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Name all that a training depends on, but for the machine."""
    kept = {name: value for name, value in settings.items() if name not in PLACE}
    return {"schema": SCHEMA, "version": release, **kept, **inputs}


def _place(fit: "Fit") -> dict[str, Any]:
    """Say on what a training runs: elsewhere its last digits are others."""
    import torch

    own = {name: fit.settings[name] for name in (*PLACE, "bf16")}
    return {**own, "torch": torch.__version__, "machine": platform.machine()}


def _os_error(error: Exception) -> tuple[int, str]:
    """Give the number and the text of what the system refused; safetensors keeps the number in its text."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO, error.strerror or str(error)
    named = re.search(r"os error (\d+)", str(error))
    number = int(named[1]) if named else errno.EIO
    return number, os.strerror(number)


def _differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which keys differ, and how."""
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {_short(then.get(name))}, now {_short(now.get(name))}" for name in changed)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:8]}.." if len(text) > manifest.LONGEST else text
