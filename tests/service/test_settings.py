"""Settings come from defaults, a file and flags; what is wrong is told in three parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.service.settings import Settings, is_loopback, make_settings, read_config


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host):
    assert is_loopback(host)
    assert not Settings(host=host).needs_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.0.0.1.evil.example"])
def test_any_other_address_needs_one(host):
    assert Settings(host=host).needs_keys


def test_the_file_is_read_with_hyphens_or_underscores(tmp_path):
    path = tmp_path / "service.yaml"
    path.write_text(
        "port: 9000\nmax-inputs: 8\nhosts: [api.example.com]\nkeys: yes\nkeep: no\nrunsfolder: x\n", "utf-8"
    )
    values = read_config(path)
    values.pop("runsfolder")
    found = make_settings(values)
    assert (found.port, found.max_inputs, found.hosts, found.keys, found.keep) == (
        9000,
        8,
        ("api.example.com",),
        "yes",
        False,
    )
    assert make_settings({"registry": "~/x"}).registry == Path("~/x").expanduser()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prot": 1}, "there is no setting 'prot'"),
        ({"port": "many"}, "port is 'many'"),
        ({"port": 70_000}, "port is 70000"),
        ({"port": -1}, "port is -1"),
        ({"port": True}, "port is True"),
        ({"keys": "maybe"}, "keys is 'maybe'"),
        ({"keep": "perhaps"}, "keep is 'perhaps'"),
        ({"max_inputs": 0}, "max_inputs is 0"),
        ({"hosts": [1]}, r"hosts is \[1\]"),
        ({"port": 5, "admin_port": 5}, "admin_port is the port itself"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(PlanProblem, match=message) as caught:
        make_settings(values)
    assert caught.value.do


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x\n", "!!python/object/apply:os.system ['true']", "- 1\n- 2\n", "a: [", "a: !x 1\n"],
    ids=["alias", "python", "list", "cut", "tag"],
)
def test_a_file_that_is_no_plain_table_is_refused(tmp_path, text):
    path = tmp_path / "service.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanProblem, match="the configuration"):
        read_config(path)


def test_an_alias_bomb_costs_nothing(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path = tmp_path / "service.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(PlanProblem, match="an anchor, an alias or a tag"):
        read_config(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PlanProblem, match="the configuration cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
