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
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import artifacts, console, manifest, publish
from .errors import CheckpointError, Stopped
from .signals import Asked

if TYPE_CHECKING:
    import torch

    from .fitting import Fit

FOLDER = "checkpoints"
KEPT = 2
SCHEMA = 1
NAME = re.compile(r"(?P<step>\d{10})-(?P<sha256>[0-9a-f]{64})\.safetensors")
PLACE = ("threads", "device")  # settings that change last digits, not what is learned


class Keeper:
    """Saves a training as it goes, every so many seconds and when a signal comes, and finds where it is to go on.

    Raises CheckpointError for checkpoints that are all damaged, or of other data or settings; never begins anew by
    itself where there is one.
    """

    def __init__(self, job: artifacts.Job, folder: str, every: float, asked: Asked, *, strict: bool) -> None:
        """Keep the files in the run folder's `folder`; `every` is seconds, 0 saves after each step."""
        self.folder, self.every, self.asked, self.strict = job.run / folder / FOLDER, every, asked, strict
        self.anew = f"ssl-recall {job.stage}{job.flags} --force"
        self.resume = shlex.join(["ssl-recall", *(part for part in console.typed if part != "--force")])
        self.about = _about(version("ssl-recall"), job.settings, job.inputs)
        self.published = job.published()
        self._saved_at = time.monotonic()
        self._last = ""

    def clear(self) -> None:
        """Remove every checkpoint: what it led to is published, or it is not wanted."""
        for path in self._found():
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def bf16(self) -> bool | None:
        """Tell what the newest checkpoint's products are taken in, None where there is none to read."""
        for path in self._found():
            with contextlib.suppress(DamagedError):
                return bool(_read(path)[1]["place"]["bf16"])
        return None

    def begin(self, fit: "Fit") -> None:
        """Put the training where the newest good checkpoint has it, if there is any."""
        publish.probe(self.folder)
        paths = self._found()
        for number, path in enumerate(paths):
            try:
                tensors, told = _read(path)
            except DamagedError as error:
                console.warn(f"{path}: {error}; taking the one before")
                continue
            if told["about"] != self.about:
                if self._is_done(told["about"]):
                    self.clear()
                    return
                raise CheckpointError(f"{self.folder}: {_differs(told['about'], self.about)}; {self._ways()}", "OTHER")
            self._check_place(told["place"], _place(fit))
            try:
                fit.restore(tensors, told["state"])
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise CheckpointError(f"{path}: does not fit the model ({error}); {self._ways()}", "MODEL") from None
            for damaged in paths[:number]:  # of later steps than those to come, which would be taken for older
                damaged.unlink()
            self._last = _where(fit)
            console.line(f"{'train':<26} goes on from {self._last}")
            return
        if paths:
            raise CheckpointError(f"{self.folder}: no checkpoint is whole; {self._ways()}", "ALL_DAMAGED")

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
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            return False  # training says so within a few steps, and what was good stays
        number = sum(row["steps"] for row in fit.curve) + len(fit.losses) + self._warm_up_of(fit)
        temporary = publish.temporary_for(self.folder / f"{number:010d}.safetensors")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"training": json.dumps(told, sort_keys=True)})
            with temporary.open("rb+") as file:
                os.fchmod(file.fileno(), self.folder.stat().st_mode & 0o666)  # safetensors makes it the owner's alone
                publish.sync(file)
            target = self.folder / f"{number:010d}-{publish.sha256(temporary)}.safetensors"
            publish.move_into_place(temporary, target)
        except (OSError, SafetensorError) as error:
            number, text = _os_error(error)
            raise OSError(number, f"{text}; {self.last()}; to go on run: {self.resume}", str(self.folder)) from None
        finally:
            temporary.unlink(missing_ok=True)
        for path in self._found()[KEPT:]:
            path.unlink()
        self._saved_at, self._last = time.monotonic(), _where(fit)
        return True

    def last(self) -> str:
        """Say where the last good checkpoint stands."""
        return f"the last checkpoint is of {self._last}" if self._last else "there is no checkpoint yet"

    def _warm_up_of(self, fit: "Fit") -> int:
        return fit.settings.get("ssl_warmup_steps", 0) if fit.epoch >= 0 else 0

    def _found(self) -> list[Path]:
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

    def _ways(self) -> str:
        return f"to begin anew run: {self.anew}"


class DamagedError(Exception):
    """A file is no checkpoint, or not the one that its name says."""


def led_to(path: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint is whole and of the very training that a manifest's entry published."""
    try:
        about = _read(path)[1]["about"]
    except DamagedError:
        return False
    return bool(about == _about(entry["version"], entry["settings"], entry["inputs"]))


def _read(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]]:
    """Read a checkpoint: its tensors, and what is told of them. Raises DamagedError."""
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
            if not {"about", "place", "state"} <= told.keys():
                raise DamagedError("is no checkpoint of a training")
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118
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


def _where(fit: "Fit") -> str:
    """Say where a training stands."""
    pass_ = "the warm-up" if fit.epoch < 0 else f"epoch {fit.epoch}"
    return f"{pass_}, step {len(fit.losses)}"
