"""Changing what is served under load, with real bundles and the registry: S3, S5, S7 of the fault list."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file
from served import Askers, served

from tunesmith.bundle.atomic import write_manifest
from tunesmith.bundle.registry import Registry

pytestmark = pytest.mark.slow
WORDS = ("m1 m2 the3 m4",)


@pytest.fixture
def registry(toy_run, tmp_path):
    """Two whole versions of one model; the first is live."""
    found = Registry(tmp_path / "registry")
    for number in (1, 2):
        shutil.copytree(toy_run.path, tmp_path / f"run-{number}")
        found.add("toy", tmp_path / f"run-{number}", parent=None)
    found.promote("toy", 1)
    return found


def start(registry: Registry, tmp_path: Path, *words: str):
    return served(tmp_path, "toy", *words, "--registry", str(registry.folder), name="toy")


def rewrite(run: Path) -> None:
    """Make a changed folder look like a bundle that was saved so: hashes that fit."""
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").unlink()
    write_manifest(run, leave_out=("lock",), id=manifest["id"], created=manifest["created"])


def damage(run: Path, how: str) -> None:
    weights = run / "model.safetensors"
    if how == "one byte":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif how == "wrong shape":
        tensors = load_file(weights)
        tensors["classifier.weight"] = tensors["classifier.weight"][:2].contiguous()
        save_file(tensors, weights, metadata={"format": "pt"})
        rewrite(run)
    elif how == "not finite":
        tensors = load_file(weights)
        tensors["classifier.weight"] += float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
        rewrite(run)
    elif how == "no folder":
        shutil.rmtree(run)


@pytest.mark.parametrize("how", ["one byte", "wrong shape", "not finite", "no folder"])
def test_s03_a_version_that_cannot_be_loaded_changes_nothing(how, registry, toy_run, tmp_path):
    run = tmp_path / "bad"
    shutil.copytree(toy_run.path, run)
    seen_by_registry = how in {"one byte", "no folder"}
    if not seen_by_registry:
        damage(run, how)
    number = registry.add("toy", run).number
    with (
        start(registry, tmp_path, "--follow-seconds", "3") as service,
        Askers(service, 2, text=WORDS[0], pause=0.01) as askers,
    ):
        registry.promote("toy", number)
        if seen_by_registry:  # what the registry would refuse is damaged between its look and the service's
            damage(run, how)
        service.wait(lambda: service.told("model not served"), 60)
        time.sleep(0.5)
        assert _version(service) == 1
        assert service.is_ready
        registry.rollback("toy")
        assert service.ask(*WORDS)[0] == 200
    assert set(askers.statuses) == {200}, askers.codes
    assert set(askers.values) == {1}


def _version(service) -> int:
    return json.loads(service.get("/v1/models")[1])["data"][0]["version"]


def test_s07_a_rollback_under_load_is_done_in_five_seconds_without_an_error(registry, tmp_path):
    with start(registry, tmp_path) as service, Askers(service, 3, text=WORDS[0]) as askers:
        registry.promote("toy", 2)
        service.wait(lambda: service.ask(*WORDS)[1]["version"] == 2, 60)
        for _ in range(3):
            registry.rollback("toy")
            seconds = service.wait(lambda: service.ask(*WORDS)[1]["version"] == 1, 30)
            assert seconds < 5
            registry.promote("toy", 2)
            service.wait(lambda: service.ask(*WORDS)[1]["version"] == 2, 30)
    assert set(askers.statuses) == {200}, askers.codes
    assert set(askers.values) == {1, 2}


def test_s05_a_hundred_hot_reloads_under_load_cost_no_request_and_no_memory(registry, tmp_path):
    with start(registry, tmp_path, "--follow-seconds", "0.05") as service:
        with Askers(service, 2, text=WORDS[0], pause=0.01) as askers:

            def swap(to: int) -> None:
                registry.promote("toy", to)
                service.wait(lambda: service.ask(*WORDS)[1].get("version") == to, 60)

            for place in range(10):
                swap(2 - place % 2)
            before = settled(service)
            for place in range(100):
                swap(2 - place % 2)
        grown = held(service) - before
        words = "%d requests, grown by %.1f MiB from %.0f"
        logging.getLogger(__name__).info(words, len(askers.seconds), grown / 2**20, before / 2**20)
    assert set(askers.statuses) == {200}, askers.codes
    assert grown <= 20 * 2**20


def settled(service) -> int:
    """Wait until the monitor has what it compares with (a child process makes it); give the bytes held then."""
    before, until = 0, time.monotonic() + 240
    while time.monotonic() < until:
        time.sleep(8)
        now = held(service)
        has_only_workers = len(psutil.Process(service.process.pid).children()) == 1
        if has_only_workers and abs(now - before) < 2**20:
            break
        before = now
    return held(service)


def held(service) -> int:
    """Bytes that the service and its processes hold for themselves."""
    whole = psutil.Process(service.process.pid)
    return sum(one.memory_full_info().uss for one in (whole, *whole.children(recursive=True)))
