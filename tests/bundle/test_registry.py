"""One name, one live version, whatever is killed and whoever else is at it; a name never becomes a path."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tunesmith.bundle import signing
from tunesmith.bundle.atomic import write_json, write_manifest
from tunesmith.bundle.names import check_name, folder_of
from tunesmith.bundle.registry import POINTER, Registry
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, RegistryProblem


def make_run(folder: Path, name: str, *, parent: str = "") -> Path:
    """Write the least that counts as a finished run."""
    run = folder / name
    run.mkdir(parents=True)
    write_json(run / "bundle.json", {"format": 1, "id": f"id-{name}"})
    write_json(run / "plan.json", {"parent": parent})
    (run / "model.safetensors").write_bytes(name.encode())
    write_manifest(run, id=f"id-{name}")
    return run


@pytest.fixture
def registry(tmp_path):
    """Three versions of one name, none of them live."""
    found = Registry(tmp_path / "registry")
    for number in (1, 2, 3):
        found.add("reviews", make_run(tmp_path, f"run{number}", parent=f"id-run{number - 1}"))
    return found


def test_versions_are_numbered_and_know_their_parents(registry, tmp_path):
    versions = registry.versions("reviews")
    assert [(one.number, one.parent, one.bundle) for one in versions] == [
        *((1, None, "id-run1"), (2, 1, "id-run2"), (3, 2, "id-run3")),
    ]
    assert versions[0].run == tmp_path / "run1"
    assert registry.names() == ("reviews",)
    assert registry.live("reviews") is None
    assert registry.stamp("reviews") == ""
    again = registry.add("reviews", tmp_path / "run2")
    assert (again, len(registry.versions("reviews"))) == (versions[1], 3)


def test_promote_and_rollback_move_the_pointer_and_its_stamp(registry):
    stamps = []
    for number in (1, 2, 3):
        registry.promote("reviews", number)
        stamps.append(registry.stamp("reviews"))
    assert len(set(stamps)) == 3
    assert registry.live("reviews").number == 3
    assert registry.rollback("reviews").number == 2
    assert registry.stamp("reviews") not in stamps
    assert registry.rollback("reviews").number == 1
    with pytest.raises(RegistryProblem, match="no version to go back to"):
        registry.rollback("reviews")
    assert [pointer.action for pointer in registry.history("reviews")] == [
        *("promote 1", "promote 2", "promote 3", "rollback to 2", "rollback to 1"),
    ]


def test_a_hundred_rollbacks(registry):
    registry.promote("reviews", 1)
    for _ in range(100):
        registry.promote("reviews", 2)
        assert registry.rollback("reviews").number == 1
        assert registry.live("reviews").number == 1
    assert len(registry.history("reviews")) == 201


def test_canary_and_shadow_stand_beside_a_live_version(registry):
    with pytest.raises(RegistryProblem, match="no other version than 2"):
        registry.set_canary("reviews", 2, 0.1)
    registry.promote("reviews", 1)
    registry.set_canary("reviews", 2, 0.25)
    registry.set_shadow("reviews", 3)
    traffic = registry.traffic("reviews")
    found = (traffic.live.number, traffic.canary.number, traffic.canary_share, traffic.shadow.number)
    assert found == (1, 2, 0.25, 3)
    registry.promote("reviews", 2)
    traffic = registry.traffic("reviews")
    assert (traffic.live.number, traffic.canary, traffic.shadow.number) == (2, None, 3)
    registry.clear("reviews")
    assert registry.traffic("reviews").shadow is None
    with pytest.raises(RegistryProblem, match=r"a share of 1\.5 is none"):
        registry.set_canary("reviews", 3, 1.5)


def test_what_is_damaged_or_changed_is_not_promoted(registry, tmp_path):
    registry.promote("reviews", 1)
    (tmp_path / "run2" / "model.safetensors").write_bytes(b"runX")
    with pytest.raises(BundleProblem, match=r"model\.safetensors has changed"):
        registry.promote("reviews", 2)
    write_manifest(tmp_path / "run2", id="id-run2")  # whole again, but not what was added
    with pytest.raises(BundleProblem, match="version 2 is not the run that was added"):
        registry.promote("reviews", 2)
    (tmp_path / "run3" / "manifest.json").unlink()
    with pytest.raises(BundleProblem, match=r"manifest\.json is missing"):
        registry.promote("reviews", 3)
    assert registry.live("reviews").number == 1


GATE = {"passed": True, "rules": [{"name": "golden set", "passed": True, "reason": "as good"}]}


def test_a_failed_or_forged_gate_is_not_promoted(registry, tmp_path):
    failed = {"passed": False, "rules": [{"name": "class recall", "passed": False, "reason": "cat is lost"}]}
    registry.add("reviews", make_run(tmp_path, "run4"), gate=failed)
    with pytest.raises(RegistryProblem, match="version 4 of 'reviews' failed its gate: class recall"):
        registry.promote("reviews", 4)
    registry.add("reviews", make_run(tmp_path, "run5"), gate=GATE)
    path = registry.folder / folder_of("reviews") / "version-4.json"
    forged = json.loads(path.read_text(encoding="utf-8"))
    forged["gate"]["passed"] = True
    write_json(path, forged)
    with pytest.raises(RegistryProblem, match="is not signed by this registry's key"):
        registry.promote("reviews", 4)
    assert registry.promote("reviews", 5).gate["passed"] is True
    registry.promote("reviews", 4, force=True)
    assert registry.history("reviews")[-1].action == "promote 4 (forced)"


def test_a_gate_of_another_run_does_not_count(registry, tmp_path):
    version = registry.add("reviews", make_run(tmp_path, "run4"), gate={**GATE, "manifest_sha256": "0" * 64})
    with pytest.raises(RegistryProblem, match="is about other files"):
        registry.promote("reviews", version.number)


def test_the_key_is_its_owners_alone_and_made_once(registry):
    record = signing.signed(registry.folder, GATE)
    assert signing.signed(registry.folder, record) == record
    assert signing.is_signed(registry.folder, record)
    assert not signing.is_signed(registry.folder, {**record, "passed": False})
    assert stat.S_IMODE((registry.folder / signing.KEY_FILE).stat().st_mode) == 0o600


ATTACKS = [
    *("../x", "..\\x", "%2e%2e%2f", "%252e%252e%252f", "a?b=../", "a#../", "a\0b", "x" * 10_000, "a\u202eb"),
    *("con", "NUL.txt", "lpt1", "com¹", "", ".", "..", ".hidden", "end.", "a/b", "/etc", "a..b", "a b", "a\nb"),
    "e\u0301t\u00e9",
]


@pytest.mark.parametrize("name", ATTACKS, ids=[f"attack-{place}" for place in range(len(ATTACKS))])
def test_names_that_could_be_paths_are_refused(tmp_path, name):
    run = make_run(tmp_path, "run")
    registry = Registry(tmp_path / "registry")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for call in (lambda: registry.add(name, run), lambda: registry.live(name), lambda: registry.stamp(name)):
        with pytest.raises(RegistryProblem) as caught:
            call()
        assert "letters and digits" in str(caught.value)
        assert len(str(caught.value)) < 400
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["reviews", "v2.1", "a", "评论-情感", "Ärzte_2"])
def test_names_of_any_script_are_fine(name):
    assert check_name(name) == name
    assert len(folder_of(name)) == 16


@pytest.mark.parametrize(
    ("first", "twin"), [("reviews", "Reviews"), ("straße", "STRASSE"), ("\u0130x".lower(), "\u0130x"), ("ﬁsh", "fish")]
)
def test_twins_of_a_name_are_refused(tmp_path, first, twin):
    first = unicodedata.normalize("NFC", first)
    registry = Registry(tmp_path / "registry")
    run = make_run(tmp_path, "run")
    try:
        registry.add(first, run)
    except RegistryProblem:
        first, twin = twin, first
        registry.add(first, run)
    with pytest.raises(RegistryProblem):
        registry.add(twin, run)
    assert registry.names() == (first,)


def test_a_planted_link_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / folder_of("reviews")).symlink_to(elsewhere)
    with pytest.raises(RegistryProblem, match="is a link to somewhere else"):
        Registry(tmp_path / "registry").add("reviews", make_run(tmp_path, "run"))
    assert list(elsewhere.iterdir()) == []


def test_the_tree_may_move_with_its_runs(registry, tmp_path):
    registry.promote("reviews", 2)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in [*tmp_path.glob("run*"), registry.folder]:
        path.rename(moved / path.name)
    assert Registry(moved / "registry").live("reviews").run == moved / "run2"


def test_a_damaged_pointer_is_said_and_mended_by_the_next_promotion(registry):
    registry.promote("reviews", 1)
    registry.promote("reviews", 2)
    path = registry.folder / folder_of("reviews") / POINTER
    path.write_text('{"live": 1', encoding="utf-8")
    with pytest.raises(RegistryProblem, match=r"pointer\.json of the registry is missing or cannot be read"):
        registry.live("reviews")
    registry.promote("reviews", 3)
    assert (registry.live("reviews").number, registry.pointer("reviews").before) == (3, (1, 2))


KILLED = """
import os, sys
from pathlib import Path
from tunesmith.bundle.registry import Registry

NAMES = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "close", "mkdir")

def count_down(cut):
    left = [cut]
    for name in NAMES:
        real = getattr(os, name)
        def call(*arguments, _real=real, **named):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return _real(*arguments, **named)
        setattr(os, name, call)
    return left

folder, verb = Path(sys.argv[1]), sys.argv[2]
registry = Registry(folder / "registry")
for cut in range(200):
    before = registry.live("reviews").number
    child = os.fork()
    if not child:
        count_down(cut)
        if verb == "promote":
            registry.promote("reviews", 1 if before == 2 else 2)
        else:
            registry.rollback("reviews")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    live = registry.live("reviews")
    assert live is not None and live.number in (1, 2, 3), live
    from tunesmith.bundle.registry import demand_whole
    demand_whole(live.run)
    if code == 0:
        break
    assert code == 9, code
    registry.promote("reviews", 3)
    registry.promote("reviews", 2)
    serials = [pointer.serial for pointer in registry.history("reviews")]
    assert serials == list(range(1, len(serials) + 1)), serials
    assert registry.live("reviews").number == 2
print(cut)
"""


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_killed_at_any_system_call_exactly_one_version_is_live(registry, tmp_path, verb):
    registry.promote("reviews", 3)
    registry.promote("reviews", 2)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, verb], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 6 <= int(done.stdout) < 199, "every cut point was tried, up to the call that is not there"


RIVAL = """
import sys
from tunesmith.bundle.registry import Registry
registry = Registry(sys.argv[1])
for turn in range(20):
    registry.promote("reviews", 1 + (turn + int(sys.argv[2])) % 3)
    assert registry.live("reviews") is not None
"""


def test_rivals_take_turns(registry):
    rivals = [
        subprocess.Popen([sys.executable, "-c", RIVAL, registry.folder, str(number)], stderr=subprocess.PIPE)
        for number in (0, 1)
    ]
    said = [rival.communicate(timeout=60)[1] for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0], said
    serials = [pointer.serial for pointer in registry.history("reviews")]
    assert serials == list(range(1, 41))


def test_the_command_lists_promotes_and_rolls_back(registry, tmp_path, capsys):
    where = ["--registry", str(registry.folder)]
    assert main(["registry", "add", "films", str(tmp_path / "run1"), *where]) == 0
    assert "next     tunesmith registry promote films 1 --registry" in capsys.readouterr().out
    for number in ("1", "2"):
        assert main(["registry", "promote", "reviews", number, *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "reviews: version 2 is live"
    assert main(["registry", "canary", "reviews", "3", "--share", "0.25", *where]) == 0
    assert capsys.readouterr().out == "reviews: version 2 is live, 25% go to version 3\n"
    assert main(["registry", "list", *where, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["models"]["reviews"]
    assert (listed["traffic"]["live"]["number"], len(listed["versions"])) == (2, 3)
    assert main(["registry", "list", "reviews", *where]) == 0
    assert "canary 25%" in capsys.readouterr().out
    assert main(["registry", "rollback", "reviews", *where]) == 0
    assert capsys.readouterr().out == "reviews: version 1 is live\n"
    assert main(["registry", "lineage", "reviews", "3", *where]) == 0
    said = capsys.readouterr().out
    assert "version 3: updates version 2; bundle id-run3" in said
    assert "the gate was not asked" in said
    assert main(["registry", "promote", "reviews", *where]) == 2
    assert "promote needs NAME NUMBER" in capsys.readouterr().err
    assert main(["registry", "promote", "reviews", "../1", *where]) == 2
    assert "is no version number" in capsys.readouterr().err


def test_a_registry_that_cannot_be_written_says_so(registry, monkeypatch):
    registry.promote("reviews", 1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        registry.promote("reviews", 2)
    monkeypatch.undo()
    assert registry.live("reviews").number == 1
