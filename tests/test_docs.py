"""What the documents say is true: their commands exist, their examples run."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from tunesmith.cli import ALIASES, COMMANDS
from tunesmith.training.recipe import keys

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/tasks.md",
    "docs/regime.md",
    "docs/augmentation.md",
    "docs/few_labels.md",
    "docs/ensembles.md",
    "docs/multi_task.md",
    "docs/many_machines.md",
    "docs/compression.md",
    "docs/continual.md",
    "docs/deployment.md",
    "docs/monitoring.md",
    "docs/serving.md",
]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"`tunesmith ([^`\n]+)`", text)
    return found + re.findall(r"^\$ tunesmith (.+)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_documents_exists(page):
    for line in commands(page):
        name, *arguments = shlex.split(line)
        if name.startswith("--"):
            assert name in {"--help", "--version"}
            continue
        name = ALIASES.get(name, name)
        assert name in COMMANDS, line
        parser = argparse.ArgumentParser()
        importlib.import_module(f"tunesmith.cli.{name.replace('-', '_')}").add_arguments(parser)
        known = {option for action in parser._actions for option in action.option_strings}
        flags = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        assert flags <= known | {"--json", "--quiet", "--debug"}, line


@pytest.mark.parametrize("page", PAGES)
def test_every_key_set_in_the_documents_exists(page):
    names = re.findall(r"--set (\w+)=", (ROOT / page).read_text(encoding="utf-8"))
    assert set(names) <= {item.name for item in keys()}


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_both_readmes_have_no_gaps_and_the_same_figures(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:FIRST|REAL)_[A-Z]+\b", text)
    figures = [re.findall(r"\d+\.\d", part) for part in blocks("README.md", "")]
    assert figures == [re.findall(r"\d+\.\d", part) for part in blocks("README.zh-CN.md", "")]


def test_the_reader_of_contributing_works(tmp_path):
    """The example is run as it stands, then inspects a file that no built-in reader knows."""
    space: dict[str, object] = {}
    (example,) = [block for block in blocks("CONTRIBUTING.md", "python") if "class Lines" in block]
    exec(example, space)
    path = tmp_path / "mail.lines"
    path.write_text("spam: win money now\nham: see you at noon\n" * 3, encoding="utf-8")
    from tunesmith import data

    found = data.inspect(path, given={}, reader=space["Lines"]())
    assert found.label_counts == {"spam": 3, "ham": 3}
    assert found.used == 6


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_the_page_of_tasks_names_every_task_and_its_rows_are_read():
    import json

    from tunesmith.data.layout import Cells
    from tunesmith.tasks import TASKS, find_task

    page = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)) == set(TASKS)
    rows = [json.loads(line) for line in page.splitlines() if line.startswith("{")]
    assert len(rows) >= 9
    for row in rows:
        tasks = [
            task
            for task in map(find_task, TASKS)
            if any(set(form.needs) <= set(row) <= {*form.needs, *form.optional} for form in task.forms)
        ]
        assert tasks, row
        cells = Cells(row)
        assert tasks[0].read_target(cells, tasks[0].read_input(cells)) is not None
        assert not cells.notes, row
