"""The watcher updates when it is due, remembers everything in its log alone, and goes on after any kill."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunesmith.bundle.atomic import write_json, write_manifest
from tunesmith.bundle.registry import Registry
from tunesmith.cli import main
from tunesmith.errors import MachineProblem, StoreProblem
from tunesmith.updating.watch import Watcher, WatchOptions, unfinished

HOUR = 3600.0


def make_run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bundle.json", {"format": 1, "id": f"id-{folder.name}"})
    write_json(folder / "plan.json", {"parent": ""})
    write_manifest(folder)
    return folder


class World:
    """A registry with a live run, feedback that can be counted, a clock, and an update that can be told what to do."""

    def __init__(self, folder, **options):
        self.registry = Registry(folder / "registry")
        self.registry.promote("toy", self.registry.add("toy", make_run(folder / "toy")).number)
        self.rows, self.clock, self.passes, self.code = 0, 1000.0, True, 0
        self.calls = []
        self.watcher = self.fresh(**options)

    def fresh(self, **options):
        """Give a watcher as a new process would make it."""
        self.options = WatchOptions(**options) if options or not hasattr(self, "options") else self.options
        return Watcher(
            "toy", self.registry, "sqlite:///x", self.options, lambda live: self.count(), self.start, lambda: self.clock
        )

    def count(self):
        if self.rows < 0:
            raise StoreProblem("the feedback store is held by another process", do="try again", kind="locked")
        return self.rows

    def start(self, arguments):
        self.calls.append(list(arguments))
        if self.code:
            return self.code
        flag = "--out" if "--out" in arguments else "--resume"
        run = make_run(type(self.registry.folder)(arguments[arguments.index(flag) + 1]))
        rules = [{"name": "golden set", "passed": self.passes, "reason": "as good" if self.passes else "-9 points"}]
        self.registry.add("toy", run, gate={"passed": self.passes, "rules": rules})
        return 0


def events(world):
    return [line["event"] for line in world.watcher.lines()]


def test_enough_feedback_starts_an_update_that_is_promoted(tmp_path):
    world = World(tmp_path, rows=50)
    world.rows = 49
    assert world.watcher.turn() == "waiting"
    world.rows = 50
    assert world.watcher.turn() == "promoted"
    assert world.registry.live("toy").run == tmp_path / "toy-v2"
    assert events(world) == ["begun", "promoted"]
    assert world.calls[0][:2] == ["update", "--name"]
    world.rows = 0  # it was learnt from
    assert world.watcher.turn() == "waiting"


def test_what_the_gate_keeps_back_is_not_tried_again_at_once(tmp_path):
    world = World(tmp_path, rows=50)
    world.rows, world.passes = 50, False
    assert world.watcher.turn() == "blocked"
    assert world.watcher.lines()[-1]["reasons"] == {"golden set": "-9 points"}
    world.rows = 99  # still pending, and not fifty more
    assert world.watcher.turn() == "waiting"
    world.rows, world.passes = 100, True
    assert world.watcher.turn() == "promoted"
    assert world.registry.live("toy").run == tmp_path / "toy-v3"


def test_the_clock_starts_an_update_too(tmp_path):
    world = World(tmp_path, rows=200, every_seconds=HOUR)
    world.watcher.note("started")
    world.rows = 12
    assert world.watcher.turn() == "waiting"
    world.clock += HOUR
    assert world.watcher.turn() == "promoted"
    world.rows = 3  # too few, whatever the clock says
    world.clock += 2 * HOUR
    assert world.watcher.turn() == "waiting"


def test_failures_are_tried_again_ever_later_and_then_anew(tmp_path):
    world = World(tmp_path, rows=10)
    world.rows, world.code = 10, 1
    waits = []
    for _ in range(3):
        assert world.watcher.turn() == "failed"
        assert world.watcher.turn() == "waiting"
        waits.append(world.watcher.lines()[-1]["again_at"] - world.clock)
        world.clock += waits[-1]
    assert waits == [60, 120, 240]
    assert unfinished(world.watcher.lines()) is None, "the candidate is given up"
    world.code, world.rows = 0, 20
    assert world.watcher.turn() == "promoted"
    world.rows = 40
    assert world.watcher.turn() == "promoted", "no wait is left"


def test_a_store_that_cannot_be_read_is_a_failure_like_any(tmp_path):
    world = World(tmp_path, rows=10)
    world.rows = -1
    assert world.watcher.turn() == "failed"
    assert world.watcher.lines()[-1]["what"] == "the feedback store is held by another process"
    world.rows, world.clock = 10, world.clock + 60
    assert world.watcher.turn() == "promoted"


def test_a_new_watcher_finishes_what_a_killed_one_began(tmp_path):
    world = World(tmp_path, rows=10)
    world.rows = 10

    def killed(arguments):
        raise KeyboardInterrupt

    world.watcher.start = killed
    with pytest.raises(KeyboardInterrupt):
        world.watcher.turn()
    (tmp_path / "toy-v2" / "rows").mkdir(parents=True)
    write_json(tmp_path / "toy-v2" / "rows" / "update.json", {})
    world.watcher = world.fresh()
    world.rows = 0  # whatever is pending: what was begun comes first
    assert world.watcher.turn() == "promoted"
    assert world.calls[0][world.calls[0].index("--resume") + 1] == str(tmp_path / "toy-v2")
    assert events(world) == ["begun", "resumed", "promoted"]


def test_a_line_cut_short_is_left_out_and_ended(tmp_path):
    world = World(tmp_path, rows=10)
    world.watcher.note("started")
    with world.watcher.log.open("a", encoding="utf-8") as file:
        file.write('{"at": 1, "event": "be')
    assert events(world) == ["started"]
    world.watcher.note("started")
    assert events(world) == ["started", "started"]


def test_a_canary_is_promoted_after_its_time_if_it_is_still_there(tmp_path):
    world = World(tmp_path, rows=10, canary_share=0.25, canary_seconds=600)
    world.rows = 10
    assert world.watcher.turn() == "canary"
    assert world.registry.traffic("toy").canary_share == 0.25
    world.rows = 0
    assert world.watcher.turn() == "waiting"
    world.clock += 600
    assert world.watcher.turn() == "promoted"
    assert world.registry.live("toy").number == 2


def test_a_canary_that_the_service_took_away_stays_away(tmp_path):
    world = World(tmp_path, rows=10, canary_share=0.25, canary_seconds=600)
    world.rows = 10
    world.watcher.turn()
    world.registry.clear("toy")
    world.rows, world.clock = 0, world.clock + 900
    assert world.watcher.turn() == "waiting"
    assert world.registry.live("toy").number == 1


def test_a_canary_that_a_person_set_is_theirs(tmp_path):
    world = World(tmp_path, rows=10, canary_share=0.25, canary_seconds=600)
    world.rows = 10
    world.watcher.turn()
    world.rows, world.clock = 0, world.clock + 600
    assert world.watcher.turn() == "promoted"
    own = world.registry.add("toy", make_run(tmp_path / "by-hand"), gate={"passed": True, "rules": []})
    world.registry.set_canary("toy", own.number, 0.05)
    world.clock += 10_000
    assert world.watcher.turn() == "waiting"
    assert world.registry.live("toy").number == 2


def test_no_update_starts_while_a_canary_is_on_trial(tmp_path):
    world = World(tmp_path, rows=10, canary_share=0.25, canary_seconds=600)
    world.rows = 10
    world.watcher.turn()
    world.rows = 100
    assert world.watcher.turn() == "waiting"
    assert len(world.calls) == 1
    assert world.registry.traffic("toy").canary.number == 2


def test_thousands_of_failures_wait_no_longer_than_some(tmp_path):
    world = World(tmp_path, rows=10)
    world.watcher.note("failed", failures=5000, again_at=0.0)
    world.rows = -1
    assert world.watcher.turn() == "failed"
    assert world.watcher.lines()[-1]["again_at"] - world.clock <= 6 * 3600


HOLD = """
import sys, time
from tunesmith.bundle.registry import Registry
from tunesmith.updating.watch import Watcher, WatchOptions
with Watcher("toy", Registry(sys.argv[1]), "", WatchOptions(), lambda live: 0).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_watchers_of_one_name_do_not_go_together(tmp_path):
    world = World(tmp_path)
    command = [sys.executable, "-c", HOLD, str(world.registry.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(MachineProblem, match="another process is watching 'toy'"), world.watcher.alone():
            pass
        other.kill()
    with world.watcher.alone():
        pass


def test_the_command_reads_its_configuration(tmp_path, capsys):
    run = make_run(tmp_path / "toy")
    config = tmp_path / "watch.yaml"
    config.write_text("rows: 50\nevery: 1h\ncanary: 0.1\n", encoding="utf-8")
    assert main(["watch", str(run), "--once", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "waiting"
    for text, said in (
        ("row: 5", "no key 'row'"),
        ("rows: [5]", "rows is no plain value"),
        ("rows: &a 5\nevery: *a", "no mapping of keys to plain values"),
        ("rows: many", "rows and canary are numbers"),
        ("rows: 0", "rows is 0"),
        ("every: soon", "--every is 'soon'"),
        ("rows: {", "this is not YAML"),
    ):
        config.write_text(text, encoding="utf-8")
        assert main(["watch", str(run), "--once", "--config", str(config)]) == 2
        assert said in capsys.readouterr().err
