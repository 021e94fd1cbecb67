"""A crash at any moment leaves the old content or the new, and nothing beside it."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from tunesmith.bundle import atomic
from tunesmith.bundle.atomic import (
    demand_space,
    explain_os_errors,
    find_damage,
    write_file,
    write_folder,
    write_json,
    write_manifest,
)
from tunesmith.errors import MachineProblem
from tunesmith.types import Origin


class Crash(BaseException):
    """As if the process had ended."""


def crash(*arguments, **named):
    raise Crash


STEPS = ["fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    write_file(path, "old")
    monkeypatch.setattr(atomic.os, step, crash)
    with pytest.raises(Crash):
        write_file(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_crash_after_the_rename_has_the_new_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_file(path, "old")
    monkeypatch.setattr(atomic, "sync", crash)
    with pytest.raises(Crash):
        write_file(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_content_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: (order.append("fsync"), real_fsync(handle)))
    monkeypatch.setattr(atomic.os, "replace", lambda *paths: (order.append("replace"), real_replace(*paths)))
    write_file(tmp_path / "a.txt", b"\0\1")
    assert order == ["fsync", "replace", "fsync"], "content, name, folder"
    assert (tmp_path / "a.txt").read_bytes() == b"\0\1"


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "sub" / "b.txt").write_text("文", encoding="utf-8")


def test_a_folder_appears_whole_with_its_hashes(tmp_path):
    write_folder(tmp_path / "there", fill)
    assert find_damage(tmp_path / "there") == []
    listed = json.loads((tmp_path / "there" / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {name: entry["bytes"] for name, entry in listed.items()} == {"a.bin": 3, "sub/b.txt": 3}
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "there", fill)


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_leaves_no_folder_behind(tmp_path, monkeypatch, step):
    monkeypatch.setattr(atomic.os, step, crash)
    with pytest.raises(Crash):
        write_folder(tmp_path / "there", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_filling_leaves_no_folder_behind(tmp_path):
    def half(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"abc")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MachineProblem) as caught:
        write_folder(tmp_path / "there", half)
    assert str(caught.value) == (
        "MachineProblem: saving there failed: No space left on device\n"
        f"  where: {tmp_path / 'there'}\n"
        "  do:    free some space, then run the same command again (a training run: with --resume)"
    )
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_out_is_not_in_the_manifest(tmp_path):
    fill(tmp_path)
    (tmp_path / "lock").write_text("", encoding="utf-8")
    (tmp_path / "tmp-1234-x").write_text("", encoding="utf-8")
    write_manifest(tmp_path, leave_out=("lock", "sub"), id="7")
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (list(manifest["files"]), manifest["id"]) == (["a.bin"], "7")


def test_damage_is_named(tmp_path):
    assert find_damage(tmp_path) == ["manifest.json is missing"]
    fill(tmp_path)
    write_manifest(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"abd")
    (tmp_path / "sub" / "b.txt").unlink()
    assert find_damage(tmp_path) == ["a.bin has changed", "sub/b.txt is missing"]


def test_a_thousand_flips_of_one_byte_are_all_found(tmp_path):
    generator = random.Random(0)
    (tmp_path / "weights.bin").write_bytes(generator.randbytes(5000))
    (tmp_path / "state.json").write_text('{"step": 7}', encoding="utf-8")
    write_manifest(tmp_path)
    assert find_damage(tmp_path) == []
    for _ in range(1000):
        path = tmp_path / generator.choice(("weights.bin", "weights.bin", "state.json"))
        whole = path.read_bytes()
        place = generator.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ generator.randrange(1, 256)]) + whole[place + 1 :])
        assert find_damage(tmp_path) == [f"{path.name} has changed"]
        path.write_bytes(whole)


def test_a_link_out_of_the_folder_is_damage(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    fill(folder)
    write_manifest(folder)
    (tmp_path / "outside").write_bytes(b"abc")
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to(tmp_path / "outside")
    assert find_damage(folder) == ["a.bin points out of the folder"]


def test_nouns_are_written_as_json(tmp_path):
    write_json(tmp_path / "a.json", {"where": Origin("文.csv", 2), "path": Path("x")})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"where": {"path": "文.csv", "row": 2}, "path": "x"}
    assert "文" in text


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.EROFS, "the disk became read-only"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.ENOENT, "the folder vanished"),
        (errno.EIO, "check the disk"),
    ],
)
def test_what_the_system_says_is_explained(tmp_path, number, advice):
    with pytest.raises(MachineProblem) as caught, explain_os_errors(tmp_path, "writing x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.what == f"writing x failed: {os.strerror(number)}"
    assert caught.value.do.startswith(advice)


def test_the_error_that_safetensors_wraps_is_explained_and_others_are_not(tmp_path):
    with pytest.raises(MachineProblem, match="No space left on device"), explain_os_errors(tmp_path, "saving"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), explain_os_errors(tmp_path, "saving"):
        raise RuntimeError("something else")


def test_a_problem_that_is_explained_is_not_explained_again(tmp_path):
    with pytest.raises(MachineProblem, match=r"^MachineProblem: inner$"), explain_os_errors(tmp_path, "outer"):
        raise MachineProblem("inner")


def test_room_on_the_disk_is_asked_for(tmp_path):
    demand_space(tmp_path, 1)
    with pytest.raises(MachineProblem, match="MiB are needed"):
        demand_space(tmp_path, 2**60)
