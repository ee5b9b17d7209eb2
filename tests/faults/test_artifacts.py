"""Damaged, hostile and leftover files of a run folder; `status --verify` and `clean`."""

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_recall import popularity
from stages.run_folder import atomic_files, manifest, reader
from stages.terminal.errors import StageError

from .commands import call

MODEL = ("model/model.json", "model/weights.safetensors")
FLIPS = 300


@pytest.fixture
def trained(shop_run: Path) -> Path:
    """Return a run folder with a model, in the working folder."""
    for command in (["build-views"], ["train", "--epochs", "1"]):
        assert call(*command)[0] == 0
    return shop_run


def names(run: Path) -> list[str]:
    return [name for entry in manifest.read(run)["stages"].values() for name in entry["outputs"]]


def rehashed(run: Path, name: str, content: bytes) -> None:
    """Replace a file's content, and record the new hash in the manifest."""
    (run / name).write_bytes(content)
    told = json.loads((run / "manifest.json").read_text())
    for entry in told["stages"].values():
        for part in (entry["inputs"], entry["outputs"]):
            if name in part:
                digest = atomic_files.sha256(run / name)
                part[name] = digest if part is entry["inputs"] else {"sha256": digest, "size": len(content)}
    (run / "manifest.json").write_bytes(manifest.sealed(told))


def test_f10_every_one_of_300_flipped_bits_is_refused_and_status_verify_names_the_file(trained: Path) -> None:
    rng, caught = random.Random(1), 0
    every = [*names(trained), "manifest.json"]
    for number in range(FLIPS):
        path = trained / every[number % len(every)]
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            with reader.reading(trained, names(trained)):
                pass
        except StageError as error:
            caught += error.code == 4
        if number < len(every):
            code, said = call("status", "--verify")
            assert (code, path.name in said) == (4, True)
        path.write_bytes(sound)
    assert caught == FLIPS
    assert call("status", "--verify")[0] == 0


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "pipe", "folder", "gone"])
def test_f09_what_is_no_longer_the_file_is_exit_4_with_the_command_to_run(trained: Path, damage: str) -> None:
    path = trained / "popularity.parquet"
    size = path.stat().st_size
    if damage == "truncated":
        os.truncate(path, size - 1)
    else:
        path.unlink()
        {"zeroed": lambda: path.write_bytes(bytes(size)), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
         "gone": lambda: None}[damage]()  # fmt: skip
    for command in (["train", "--epochs", "1"], ["status", "--verify"]):
        code, said = call(*command)
        assert code == 4
        assert "popularity.parquet" in said
        assert "run: ssl-recall compute-popularity" in said


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "a list": lambda _: b"[]",
    "no shape": lambda _: b'{"shape": null}',
    "a text for a width": lambda old: old.replace(b'"width": 8', b'"width": "8"'),
    "a number for a list": lambda _: (
        b'{"shape": {"embedding_width": 8, "hidden": 8, "width": 8, "history": 0, "seed": 1}}'
    ),
    "deep": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_f44_a_hostile_model_json_of_the_right_hash_is_exit_4(trained: Path, kind: str) -> None:
    rehashed(trained, MODEL[0], HOSTILE[kind]((trained / MODEL[0]).read_bytes()))
    code, said = call("export-embeddings")
    assert code == 4, said
    assert "MODEL: " in said
    assert "run: ssl-recall train --run run --force" in said


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}", (2**40).to_bytes(8, "little") + b"{", b"PK\x03\x04"])
def test_f44_hostile_weights_of_the_right_hash_are_exit_4(trained: Path, content: bytes) -> None:
    rehashed(trained, MODEL[1], content)
    assert call("export-embeddings")[0] == 4


@pytest.mark.parametrize("name", ["items.parquet", "features.parquet", "train.parquet", "popularity.parquet"])
def test_f44_garbage_of_the_right_hash_is_exit_4(trained: Path, name: str) -> None:
    rehashed(trained, name, b"PAR1" + b"\xee" * 200 + b"PAR1")
    code, said = call("train", "--force")
    assert code == 4, said
    assert f"{name}: is no table" in said


def test_clean_removes_what_our_tool_left_and_nothing_else_and_a_dry_run_removes_nothing(trained: Path) -> None:
    (trained / "model" / ".weights.safetensors.7.tmp").write_text("half")
    (trained / ".previous" / "model").mkdir(parents=True)
    (trained / ".previous" / "model" / "model.json").write_text("old")
    (trained / "notes.txt").write_text("mine")
    before = {path for path in trained.rglob("*") if path.is_file()}
    code, said = call("clean", "--dry-run")
    assert (code, {path for path in trained.rglob("*") if path.is_file()}) == (0, before)
    assert "would remove run/model/.weights.safetensors.7.tmp" in said
    assert call("clean")[0] == 0
    gone = before - {path for path in trained.rglob("*") if path.is_file()}
    assert {path.name for path in gone} == {".weights.safetensors.7.tmp", "model.json"}
    assert (trained / "model" / "model.json").is_file()
    assert call("status", "--verify")[0] == 0


def test_clean_refuses_a_folder_that_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / ".x.1.tmp").write_text("precious")
    assert call("clean", "--run", str(tmp_path))[0] == 2
    assert (tmp_path / ".x.1.tmp").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_f08_a_folder_that_takes_no_file_is_exit_5_before_any_work(trained: Path) -> None:
    trained.joinpath("model").chmod(0o555)
    script = "from stages.cli import main; main()"
    command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, "train", "--force"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "model" in done.stderr
    assert "epoch 0" not in done.stderr, "it trained first"


def test_f08_a_folder_that_takes_no_file_is_told_before_a_stage_begins(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr(atomic_files, "probe", refuse)
    monkeypatch.setattr(popularity, "count_items", lambda *_: pytest.fail("at work"))
    refused = call("compute-popularity", "--unseen-count", "0.5")
    assert refused.returncode == 5
    assert "Read-only file system: 'run'" in refused.said
