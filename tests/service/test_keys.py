"""Keys are shown once, kept as salted hashes, and count within a second of a change."""

from __future__ import annotations

import json
import stat
import time

import pytest

from tunesmith.cli import main
from tunesmith.errors import PlanProblem
from tunesmith.service.keys import Keys


def test_a_key_is_found_by_its_text_alone(tmp_path):
    keys = Keys(tmp_path)
    key, text = keys.add("shop", ["predict", "feedback"])
    caller = Keys(tmp_path).find(text)
    assert caller is not None
    assert (caller.id, caller.name, caller.tenant) == (key.id, "shop", "shop")
    assert caller.may("predict")
    assert caller.may("feedback")
    assert not caller.may("admin")
    for wrong in (
        "",
        "x",
        text[:-1],
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        f"tsk_00000000_{text[13:]}",
        key.sha256,
    ):
        assert Keys(tmp_path).find(wrong) is None, wrong


def test_an_admin_may_do_everything(tmp_path):
    _, text = Keys(tmp_path).add("boss", ["admin"])
    caller = Keys(tmp_path).find(text)
    assert caller is not None
    assert caller.may("predict")


def test_the_file_holds_no_secret_and_is_for_its_owner(tmp_path):
    keys = Keys(tmp_path)
    _, text = keys.add("shop", ["predict"])
    content = keys.path.read_text(encoding="utf-8")
    secret = text.split("_", 2)[2]
    assert secret not in content
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert len(json.loads(content)["keys"][0]["sha256"]) == 64


def test_two_keys_differ_in_id_secret_and_salt(tmp_path):
    keys = Keys(tmp_path)
    (first, one), (second, two) = keys.add("a", ["predict"]), keys.add("b", ["predict"])
    assert one != two
    assert first.id != second.id
    assert first.salt != second.salt


def test_a_revoked_key_ends_and_its_name_is_free(tmp_path):
    keys = Keys(tmp_path)
    _, text = keys.add("shop", ["predict"])
    with pytest.raises(PlanProblem, match="there is a key 'shop' already"):
        keys.add("shop", ["predict"])
    keys.revoke("shop")
    assert Keys(tmp_path).find(text) is None
    _, again = keys.add("shop", ["predict"])
    assert Keys(tmp_path).find(again) is not None
    with pytest.raises(PlanProblem, match="there is no key 'shap'"):
        keys.revoke("shap")


def test_an_expired_key_ends(tmp_path):
    keys = Keys(tmp_path)
    _, text = keys.add("shop", ["predict"], expires_at=time.time() - 1)
    assert keys.find(text) is None
    assert not keys.has_active()


def test_a_change_by_another_process_counts_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.service.keys._LOOK_SECONDS", 0.0)
    running = Keys(tmp_path)
    assert running.find("tsk_00000000_" + "a" * 43) is None
    _, text = Keys(tmp_path).add("late", ["predict"])
    assert running.find(text) is not None
    Keys(tmp_path).revoke("late")
    assert running.find(text) is None


def test_a_broken_file_keeps_the_keys_that_were_known(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.service.keys._LOOK_SECONDS", 0.0)
    keys = Keys(tmp_path)
    _, text = keys.add("shop", ["predict"])
    assert keys.find(text) is not None
    keys.path.write_text("{", encoding="utf-8")
    assert keys.find(text) is not None
    with pytest.raises(PlanProblem, match="the file of keys cannot be read"):
        Keys(tmp_path).all()


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\nb", "x" * 65])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(PlanProblem, match="cannot be used"):
        Keys(tmp_path).add(name, ["predict"])


def test_the_command_shows_a_key_once(tmp_path, capsys):
    assert main(["keys", "add", "shop", "--role", "predict,feedback", "--registry", str(tmp_path)]) == 0
    text = capsys.readouterr().out.strip()
    assert Keys(tmp_path).find(text) is not None
    assert main(["keys", "list", "--json", "--registry", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert text.split("_", 2)[2] not in shown  # a secret may have such a sign itself
    (row,) = json.loads(shown)
    assert (row["name"], row["roles"], row["state"]) == ("shop", ["predict", "feedback"], "active")
    assert main(["keys", "revoke", "shop", "--registry", str(tmp_path)]) == 0
    assert Keys(tmp_path).find(text) is None


@pytest.mark.parametrize(("until", "message"), [("soon", "'soon' is no time"), ("2001-01-01", "has passed")])
def test_an_odd_time_is_refused_in_three_parts(tmp_path, capsys, until, message):
    assert main(["keys", "add", "shop", "--expires", until, "--registry", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_role_that_is_none_is_refused(tmp_path, capsys):
    assert main(["keys", "add", "shop", "--role", "predct", "--registry", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "PlanProblem: no role 'predct'\n  where: --role\n  do:    use one of: predict, admin, feedback\n"
    )
