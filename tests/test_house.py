"""The rules of the house: who may import whom, what is public, and that no catalogue entry escapes the contract."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import ALIASES, COMMANDS
from tunesmith.data import READERS
from tunesmith.errors import TunesmithError, nearest_first
from tunesmith.methods import METHODS, Method, find_method
from tunesmith.tasks import TASKS, Task, find_task

ROOT = Path(tunesmith.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAY_IMPORT = {  # room -> the rooms before it
    "types": set(),
    "errors": set(),
    "data": {"types", "errors"},
    "metrics": {"types", "errors"},
}
for room in (
    *("tasks", "models", "engines", "methods", "bundle", "monitoring", "service"),
    *("training", "search", "pretraining", "compression", "updating", "doctor", "cli"),
):
    MAY_IMPORT[room] = set(MAY_IMPORT)
FACADE = {"__init__", "__main__"}  # the package itself: names the public things, and is the door for `python -m`


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    """Give the rooms that a file imports, wherever in the file and under whatever condition."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name.split(".")[1] for name in found if name.startswith("tunesmith.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_earlier_rooms(path):
    room = room_of(path)
    if room in FACADE:
        return
    later = imports_of(path) - MAY_IMPORT[room] - {room, "__version__"}
    assert not later, f"{room} must not import {sorted(later)}"


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in FILES} - FACADE == set(MAY_IMPORT)


LIGHT = [
    *("tunesmith", "tunesmith.cli", "tunesmith.types", "tunesmith.errors", "tunesmith.data", "tunesmith.metrics"),
    *("tunesmith.tasks", "tunesmith.models", "tunesmith.models.find", "tunesmith.training.recipe"),
    *("tunesmith.tasks.engine", "tunesmith.engines", "tunesmith.bundle.load", "tunesmith.bundle.predict_file"),
]


def test_light_rooms_load_neither_torch_nor_transformers():
    code = (
        "import importlib, sys, tunesmith.cli\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "assert tunesmith.cli.main(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'accelerate', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: tunesmith COMMAND")


def test_help_of_train_loads_no_torch():
    code = (
        "import sys, tunesmith.cli\n"
        "try:\n    tunesmith.cli.main(['train', '--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout


def test_public_names_are_few_importable_and_explained():
    assert len(tunesmith.__all__) <= 20
    assert set(dir(tunesmith)) == {*tunesmith.__all__, "__version__"}
    for name in tunesmith.__all__:
        thing = getattr(tunesmith, name)
        assert callable(thing), name
        assert inspect.getdoc(thing), name


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'tunesmith' has no attribute 'tain'"):
        tunesmith.tain  # noqa: B018


def public_nodes(tree: ast.Module):
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            is_named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if is_named and not node.name.startswith("_"):
                yield node
                if isinstance(node, ast.ClassDef):
                    waiting.append(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_explained_and_silent(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(tree), "the file says what it is for"
    assert [node.name for node in public_nodes(tree) if not ast.get_docstring(node)] == []
    prints = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    assert room_of(path) == "cli" or not prints, f"print in lines {prints}"


def members(protocol: type) -> set[str]:
    named = {name for name, value in vars(protocol).items() if not name.startswith("_") and callable(value)}
    return named | {name for name in getattr(protocol, "__annotations__", {}) if not name.startswith("_")}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_what_the_seam_asks(name):
    task = find_task(name)
    assert task.name == name
    assert not [member for member in members(Task) if not hasattr(task, member)]
    assert task.main in task.metrics
    same_arguments(task, Task)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_what_the_seam_asks(name):
    method = find_method(name)
    assert not [member for member in members(Method) if not hasattr(method, member)]
    same_arguments(method, Method)


def same_arguments(thing: object, protocol: type) -> None:
    for member in members(protocol):
        wanted = vars(protocol).get(member)
        if callable(wanted):
            asked = [name for name in inspect.signature(wanted).parameters if name != "self"]
            assert list(inspect.signature(getattr(thing, member)).parameters) == asked, member


@pytest.mark.parametrize("name", READERS)
def test_every_reader_has_what_the_seam_asks(name):
    reader = importlib.import_module(READERS[name])
    assert all(suffix.startswith(".") for suffix in reader.SUFFIXES)
    assert list(inspect.signature(reader.read).parameters) == ["path"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_options_run_and_help(name):
    command = importlib.import_module(f"tunesmith.cli.{name.replace('-', '_')}")
    assert command.__doc__
    assert list(inspect.signature(command.add_arguments).parameters) == ["parser"]
    assert list(inspect.signature(command.run).parameters) == ["options", "output"]
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_unknown_names_list_the_valid_ones_nearest_first():
    with pytest.raises(TunesmithError) as caught:
        find_method("top-layer")
    assert str(caught.value) == (
        "PlanProblem: no method 'top-layer'\n  where: method\n"
        f"  do:    use one of: {nearest_first('top-layer', METHODS)}"
    )
    assert "use one of: top-layers, " in str(caught.value)
    with pytest.raises(TunesmithError) as caught:
        find_task("text-clasification")
    first = "PlanProblem: no task 'text-clasification'\n  where: task\n  do:    use one of: text-classification, "
    assert str(caught.value).startswith(first)
    assert all(name in str(caught.value) for name in TASKS)


def test_a_users_own_object_goes_wherever_a_name_does():
    own = object()
    assert find_task(own) is own
    assert find_method(own) is own
    assert find_method("tunesmith.methods:full") is find_method("full")
    assert find_task("tunesmith.tasks.text_classification:TASK") is find_task("topic")
