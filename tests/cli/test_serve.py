"""`tunesmith serve`: what it refuses before it listens, and one service from start to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tunesmith.cli import main
from tunesmith.service.keys import Keys


def refusal(capsys, *arguments: str) -> str:
    assert main(["serve", *arguments]) in (2, 4)
    return capsys.readouterr().err


def test_others_are_not_let_in_without_a_key(tmp_path, capsys):
    registry = tmp_path / "registry"
    assert refusal(capsys, "one", "--stub", "5ms", "--host", "0.0.0.0", "--registry", str(registry)) == (
        "PlanProblem: others can reach 0.0.0.0, and there is no key\n"
        f"  where: {registry / 'keys.json'}\n"
        f"  do:    tunesmith keys add NAME --role predict,feedback --registry {registry}; "
        "or stay on this machine: --host 127.0.0.1\n"
    )
    Keys(registry).revoke(Keys(registry).add("old", ["predict"])[0].name)
    assert "there is no key" in refusal(capsys, "one", "--stub", "5ms", "--host", "::", "--registry", str(registry))


def test_a_port_that_is_taken_is_told(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refusal(capsys, "one", "--stub", "5ms", "--port", port, "--registry", str(tmp_path))
    assert said.startswith(f"MachineProblem: port {port} is taken by another program\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run is named, and no version is live in the registry"),
        (["nowhere"], "there is no run 'nowhere'"),
        (["--config", "none.yaml"], "the configuration cannot be read"),
        (["x", "--stub", "fast"], "a stub is described as 'fast'"),
        (["x", "--stub", "5ms", "--workers", "0"], "workers is 0"),
        (["x", "--stub", "5ms", "--max-inputs", "-1"], "max_inputs is -1"),
        (["x", "--stub", "5ms", "--keys", "some"], "keys is 'some'"),
        (["../x", "--stub", "5ms"], "the model name '../x'"),
    ],
)
def test_what_cannot_be_served_is_told(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, *arguments, "--port", "0")
    assert message in said
    assert "  do:    " in said


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "plan.json").write_text("{}", encoding="utf-8")
    said = refusal(capsys, str(tmp_path / "half"), "--port", "0")
    assert said.startswith("BundleProblem: this folder is no finished run")
    assert f"tunesmith train --resume {tmp_path / 'half'}" in said


def test_a_damaged_store_stops_the_start(tmp_path, capsys):
    (tmp_path / "feedback.sqlite").write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    said = refusal(capsys, "one", "--stub", "5ms", "--port", "0", "--registry", str(tmp_path))
    assert said.startswith("StoreProblem: ")
    assert "doctor" in said


def get(url: str) -> tuple[int, dict]:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.status, json.loads(response.read())


def test_a_service_from_start_to_end(tmp_path):
    config = tmp_path / "service.yaml"
    config.write_text("models: [one, two]\nport: 0\nmax-wait-ms: 1\nwatch: no\n", encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "serve", "--config", str(config), "--stub", "2ms", "--json"]
    command += ["--registry", str(tmp_path / "registry"), "--log", str(tmp_path / "log.jsonl"), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = child.stdout.readline()
        told = json.loads(line)
        assert (told["event"], told["models"], told["needs_keys"]) == ("listening", ["one", "two"], False)
        assert get(f"{told['url']}/livez") == (200, {"status": "alive"})
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if get(f"{told['url']}/readyz")[0] == 200:
                    break
            time.sleep(0.1)
        request = urllib.request.Request(
            f"{told['url']}/v1/models/two:predict", b'{"inputs": ["a"]}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.loads(response.read())["predictions"][0]["value"] == "stub"
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    assert f"listening on {told['url']}" in said
    assert "stop     Ctrl-C, or SIGTERM" in said
    assert "everything that was accepted is answered" in said
    lines = Path(tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(json.loads(each)["event"] == "request" for each in lines)


def test_every_option_in_the_page_on_serving_exists():
    import argparse
    import re

    from tunesmith.cli import keys, serve

    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    known = set()
    for command in (serve, keys):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        known |= {flag for action in parser._actions for flag in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert len(named) > 25
    assert named <= known
