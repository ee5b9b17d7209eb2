"""Checkpoints of a training: its whole state after a step, in one safetensors file with its sha256 in the name.

A checkpoint is written whole or not at all. The two newest are kept. A resume skips a file with another sha256.
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

from stages.run_folder import atomic_files, staleness
from stages.run_folder.job import Job
from stages.run_folder.layout import CHECKPOINTS_FOLDER
from stages.terminal import console, settings_file
from stages.terminal.errors import CheckpointError, Stopped
from stages.terminal.signals import Asked

from .fit import LOSSES

if TYPE_CHECKING:
    import torch

    from .fit import Fit

KEPT = 2
SCHEMA = 1
NAME = re.compile(r"(?P<step>\d{10})-(?P<sha256>[0-9a-f]{64})\.safetensors")
PLACE = ("threads", "device")  # settings that change only the last digits of the result


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint: file, settings and input hashes (`about`), machine (`place`), position (`state`)."""

    path: Path
    about: dict[str, Any]
    place: dict[str, Any]
    state: dict[str, Any]

    @property
    def bf16(self) -> bool:
        """Return True if the training computed its matrix products in bfloat16."""
        return bool(self.place.get("bf16"))

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Read the tensors from the file."""
        from safetensors.torch import load_file

        return load_file(self.path)


class Keeper:
    """Resumes a training from its newest checkpoint, and saves one every `every` seconds and at a signal.

    Raises CheckpointError if all checkpoints are damaged, or if they have other data or settings. Only the user can
    restart such a training (`--force`).
    """

    def __init__(self, job: Job, folder: str, every: float, asked: Asked, *, strict: bool) -> None:
        """Keep the checkpoints in the sub-folder `folder` of the run folder; with `every` = 0, save after each step."""
        self.folder, self.every, self.asked, self.strict = job.run / folder / CHECKPOINTS_FOLDER, every, asked, strict
        self.stage, self.resume, self.settings = job.stage, console.same_command(), job.settings
        own = shlex.split(f"{job.stage}{job.flags}")  # replaces `run`, which accepts no flags of `train`
        self.typed = [part for part in console.typed if part != "--force"] if console.typed[:1] == ["train"] else own
        self.about = _about(version("ssl-recall"), job.settings, job.inputs)
        self.published = job.published()
        self._found: Checkpoint | None = None
        self._saved_at = time.monotonic()
        self._last = ""

    def clear(self) -> None:
        """Delete every checkpoint: the model is published, or the user restarts."""
        for path in self._paths():
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def tidy(self) -> None:
        """Delete the checkpoints of the published training; keep those of an interrupted one and warn of them."""
        for path in self._paths():
            if self.published is not None and led_to(path, self.published):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        if kept := self._paths():
            said = f"keeps {len(kept)} checkpoint{'s' * (len(kept) > 1)} of an interrupted training"
            with contextlib.suppress(DamagedError):
                said += self._to_go_on(_read(kept[0]))
            console.warn(f"{self.folder}: {said}; to discard it delete the folder")

    def find(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, from which `begin` resumes; None if the training starts afresh.

        If that checkpoint belongs to the published training, delete all checkpoints and return None.
        """
        atomic_files.probe(self.folder)
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
            for damaged in paths[:number]:  # their later steps would pass for newer than the checkpoints to come
                damaged.unlink()
            self._found = found
            return found
        if paths:
            raise CheckpointError(f"{self.folder}: every checkpoint is damaged; {self._ways()}", "ALL_DAMAGED")
        return None

    def begin(self, fit: "Fit") -> None:
        """Restore the training from the checkpoint that `find` returned, if there is one."""
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
        """Save if `every` seconds have passed or a signal came. Raises Stopped after a signal."""
        if not self.asked.number and time.monotonic() - self._saved_at < self.every:
            return
        if self.save(fit) and self.asked.number:
            raise Stopped(f"stopped after {self._last}, which is saved; to go on run: {self.resume}", self.asked.number)

    def save(self, fit: "Fit") -> bool:
        """Write a checkpoint and delete all but the newest KEPT; if a value is not finite, return False and write none.

        Raises OSError, which names the last good checkpoint.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        told = {"about": self.about, "place": _place(fit), "state": fit.state()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in fit.tensors().items()}
        if not all(bool(tensor.isfinite().all()) for tensor in (tensors | {LOSSES: fit.totals()}).values()):
            return False  # the training raises NumberError within a few steps; the last good checkpoint stays
        number = f"{fit.steps_taken:010d}"
        temporary = atomic_files.temporary_for(self.folder / f"{number}.safetensors")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"training": json.dumps(told, sort_keys=True)})
            with temporary.open("rb+") as file:
                os.fchmod(file.fileno(), self.folder.stat().st_mode & 0o666)  # safetensors lets only the owner read it
                atomic_files.sync(file)
            target = self.folder / f"{number}-{atomic_files.sha256(temporary)}.safetensors"
            atomic_files.move_into_place(temporary, target)
        except (OSError, SafetensorError) as error:
            code, text = _os_error(error)
            with contextlib.suppress(OSError):  # not empty
                self.folder.rmdir()
            raise OSError(code, f"{self.folder}: {text}; {self.last()}; to go on run: {self.resume}") from None
        finally:
            temporary.unlink(missing_ok=True)
        for path in self._paths()[KEPT:]:
            path.unlink()
        self._saved_at, self._last = time.monotonic(), fit.where()
        return True

    def last(self) -> str:
        """Name the epoch and step of the last good checkpoint."""
        return f"the last checkpoint is of {self._last}" if self._last else "there is no checkpoint yet"

    def _paths(self) -> list[Path]:
        """List the checkpoint files, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()), reverse=True
        )

    def _is_done(self, about: Mapping[str, Any]) -> bool:
        """Return True if a checkpoint belongs to the published training: a kill came before its deletion."""
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
        """Say which settings or inputs differ from the checkpoint's, and which command resumes it."""
        text = f"holds an interrupted training with other settings or data: {_differs(found.about, self.about)}"
        return text + self._to_go_on(found)

    def _to_go_on(self, found: Checkpoint) -> str:
        """Name the command that resumes a checkpoint; return an empty text if the data have changed."""
        changed = {name for name in found.about if found.about[name] != self.about.get(name)}
        if changed - self.settings.keys():
            return ""
        flags = [part for name in sorted(changed) for part in settings_file.flags(name, found.about[name])]
        names = {name.replace("_", "-"): isinstance(found.about[name], bool) for name in changed}
        valued = {f"--{name}" for name, is_switch in names.items() if not is_switch}
        switches = {f"{dashes}{name}" for name, is_switch in names.items() if is_switch for dashes in ("--", "--no-")}
        kept = console.without(self.typed, valued, switches)
        return f"; to go on with it run: {shlex.join(['ssl-recall', *kept, *flags])}"

    def _ways(self) -> str:
        return f"to begin anew, without it, run: {shlex.join(['ssl-recall', *self.typed, '--force'])}"


def steps_saved(folder: Path) -> int | None:
    """Return the step of the newest checkpoint in a folder, by name only; None if there is none."""
    found = [NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(match["step"]) for match in found if match), default=None)


class DamagedError(Exception):
    """A file is not a checkpoint, or does not match the sha256 in its name."""


def led_to(path: Path, entry: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint is undamaged and belongs to the training that a manifest entry published."""
    try:
        about = _read(path).about
    except DamagedError:
        return False
    return bool(about == _about(entry["version"], entry["settings"], entry["inputs"]))


def _read(path: Path) -> Checkpoint:
    """Verify a checkpoint's sha256 and read its metadata. Raises DamagedError."""
    from safetensors import SafetensorError, safe_open

    named = NAME.fullmatch(path.name)
    assert named is not None, "listed by this pattern"
    try:
        found = atomic_files.sha256(path)
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})") from None
    if found != named["sha256"]:
        raise DamagedError(f"not what was written (sha256 {named['sha256'][:8]}.. then, {found[:8]}.. now)")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["training"])
        return Checkpoint(path, *(dict(told[part]) for part in ("about", "place", "state")))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"is not a checkpoint ({error})") from None


def _about(release: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Collect everything that a training depends on, except the machine."""
    kept = {name: value for name, value in settings.items() if name not in PLACE}
    return {"schema": SCHEMA, "version": release, **kept, **inputs}


def _place(fit: "Fit") -> dict[str, Any]:
    """Describe the machine and arithmetic of a training, which change its last digits."""
    import torch

    own = {"threads": fit.settings.threads, "device": fit.settings.device, "bf16": fit.bf16}
    return {**own, "torch": torch.__version__, "machine": platform.machine()}


def _os_error(error: Exception) -> tuple[int, str]:
    """Return the error number and its text; safetensors has the number only in its text."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO, error.strerror or str(error)
    named = re.search(r"os error (\d+)", str(error))
    number = int(named[1]) if named else errno.EIO
    return number, os.strerror(number)


def _differs(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the keys whose values differ, with both values."""
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {_short(then.get(name))}, now {_short(now.get(name))}" for name in changed)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:8]}.." if len(text) > staleness.LONGEST else text
