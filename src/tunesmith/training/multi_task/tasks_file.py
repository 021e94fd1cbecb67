"""The file that asks for several tasks: a recipe with a list `tasks`.

    model: minilm
    epochs: 5
    tasks:
      - {name: sentiment, data: reviews.csv}
      - {name: intents, data: requests.csv, test: requests-test.csv}

What stands at the top holds for the body that all tasks share, or for every task; an entry of the list says what is its
own: its files, columns, metric. No torch here: the command line asks whether a recipe is such a file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.training.recipe import Recipe, canonical, make_recipe, write_recipe

FILE = "tasks.yaml"  # in the folder of such a run

POWERS = {"proportional": 1.0, "sqrt": 0.5, "equal": 0.0}
"""How often a task is trained: its rows to this power, over the sum of all."""

OWN_KEYS = (
    *("data", "valid", "test", "task", "columns", "text", "label", "metric", "max_rejected", "valid_share"),
    *("test_share", "baseline_rows", "abstain_at", "max_length", "encoder", "stride"),
)
"""Recipe keys that an entry of the list may have."""

SHARED_METHODS = ("full", "top-layers")
_DECLINED = {
    "budget": "a budget is for runs of one task",
    "parent": "an update goes on from one run",
    "teacher": "a teacher answers one task",
    "unlabelled": "unlabelled rows belong to one task",
    "augment": "copies are made of one task's rows",
    "track": "a tracker follows one task",
    "adversarial": "adversarial training knows one head",
    "unfreeze": "gradual unfreezing knows one head",
    "layer_decay": "rates by depth know one head",
    "averaging": "averaged weights know one head",
    "label_smoothing": "the losses of several tasks are bent in no one way",
    "class_weights": "the losses of several tasks are bent in no one way",
    "focal_gamma": "the losses of several tasks are bent in no one way",
    "r_drop": "the losses of several tasks are bent in no one way",
}
_LARGEST_BYTES = 1_000_000
_TAKEN = {"alone", "checkpoints", "lock", "holder", FILE, "plan.json", "log.jsonl", "summary.json", "report.html"}
_NAME = re.compile(r"[\w][\w.-]{0,60}")


@dataclass(frozen=True)
class TasksFile:
    """What such a file asks for."""

    recipes: Mapping[str, Recipe]  # by the name of the task, in the order of the file
    sampling: str = "sqrt"
    alone: bool = False  # whether each task is also trained by itself, and both are compared
    out: str = ""
    name: str = ""  # of the file, without its suffix

    @property
    def text(self) -> str:
        """The file again, with absolute paths and every key: it repeats the run from any folder."""
        import yaml

        entries = [
            {"name": name, **yaml.safe_load(write_recipe(_absolute(recipe)))} for name, recipe in self.recipes.items()
        ]
        shared = {key: value for key, value in entries[0].items() if key not in {"name", *OWN_KEYS}}
        tasks = [{key: one[key] for key in ("name", *OWN_KEYS) if key in one} for one in entries]
        content = {**shared, "sampling": self.sampling, "alone": self.alone, "tasks": tasks}
        return str(yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


def is_tasks_file(path: str | Path) -> bool:
    """Whether a recipe asks for several tasks."""
    where = Path(path)
    if where.suffix not in {".yaml", ".yml"} or not where.is_file() or where.stat().st_size > _LARGEST_BYTES:
        return False
    return re.search(r"^tasks\s*:", where.read_text(encoding="utf-8-sig", errors="replace"), re.MULTILINE) is not None


def read_tasks_file(path: str | Path, more: Mapping[str, Any] | None = None) -> TasksFile:
    """Read a file of tasks; relative paths in it are relative to the file.

    Args:
        path: A YAML file with a list `tasks`.
        more: Shared recipe keys that go before the file's own, as given on the command line.

    Raises:
        PlanProblem: It is no such file, or keys stand where they have no meaning.
    """
    where = Path(path)
    content = _read(where)
    entries = content.pop("tasks")
    sampling, alone = str(content.pop("sampling", "sqrt")), content.pop("alone", False)
    if sampling not in POWERS:
        raise PlanProblem(f"sampling is '{sampling}'", where=str(where), do=f"use one of: {', '.join(POWERS)}")
    if not isinstance(alone, bool):
        raise PlanProblem(f"alone is '{alone}'", where=str(where), do="write yes or no")
    given = _canonical(more or {}, "command line")
    shared = {**_canonical(content, str(where)), **given}
    _demand_shared(shared, str(where))
    folder = where.parent
    shared = {**_with_folder(shared, folder), **{key: given[key] for key in given}}
    out = str(shared.pop("out", ""))
    recipes: dict[str, Recipe] = {}
    for place, entry in enumerate(entries, 1):
        name, own = _entry(entry, place, str(where))
        if name in recipes:
            do = "give each a name of its own: - {name: ..., data: ...}"
            raise PlanProblem(f"two tasks are called '{name}'", where=str(where), do=do)
        recipes[name] = make_recipe({**shared, **_with_folder(own, folder)}, where=f"{where}, task {name}")
    return TasksFile(recipes, sampling, alone, out, where.stem)


def _canonical(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return canonical({str(key): value for key, value in values.items()}, where=where)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    def refuse(what: str) -> PlanProblem:
        return PlanProblem(what, where=str(path), do="write: tasks: [{data: a.csv}, {data: b.csv}]")

    if not path.is_file():
        raise refuse("there is no such file of tasks")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise refuse("this file repeats parts of itself by aliases (*name), which is not read")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise refuse(f"this file is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list):
        raise refuse("this file has no list of tasks")
    if len(content["tasks"]) < 2:
        raise refuse(f"{len(content['tasks'])} task shares its body with no other")
    return dict(content)


def _entry(entry: Any, place: int, where: str) -> tuple[str, dict[str, Any]]:
    """Give the name of a task and its own keys."""
    if not isinstance(entry, dict) or not entry.get("data"):
        what = f"entry {place} of tasks names no data"
        raise PlanProblem(what, where=where, do="write: - {name: reviews, data: reviews.csv}")
    given = dict(entry)
    name = str(given.pop("name", "") or Path(str(given["data"])).name.split(".")[0])
    if not _NAME.fullmatch(name) or name in _TAKEN:
        do = "use letters, digits, dots, dashes and underscores; it becomes a folder beside others of the run"
        raise PlanProblem(f"a task cannot be called '{name}'", where=where, do=do)
    own = _canonical(given, f"{where}, task {name}")
    if strange := [key for key in own if key not in OWN_KEYS]:
        raise PlanProblem(
            f"{strange[0]} belongs to the body that all tasks share, or to none",
            where=f"{where}, task {name}",
            do=f"write it at the top of the file; a task's own keys are: {nearest_first(strange[0], OWN_KEYS)}",
        )
    return name, own


def _demand_shared(shared: Mapping[str, Any], where: str) -> None:
    """Refuse keys at the top that several tasks cannot have in common."""
    plain = {item.name: item.default for item in dataclasses.fields(Recipe)}
    recipe = make_recipe(shared, where=where)
    for key in ("data", "valid", "test"):
        if getattr(recipe, key):
            raise PlanProblem(f"{key} stands at the top", where=where, do="write it into the entry of its task")
    for key, reason in _DECLINED.items():
        if getattr(recipe, key) != plain[key]:
            raise PlanProblem(f"{key} has no place here: {reason}", where=where, do=f"leave {key} out")
    if recipe.method not in SHARED_METHODS:
        raise PlanProblem(
            f"method '{recipe.method}' keeps what it learns beside the body, or asks in its own way",
            where=where,
            do=f"use one of: {', '.join(SHARED_METHODS)}",
        )


def _with_folder(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Give the keys with paths that are relative to the file made relative to here."""
    found = dict(values)
    for key in ("data", "valid", "test", "out"):
        if isinstance(found.get(key), str) and found[key]:
            found[key] = str(folder / Path(found[key]).expanduser())
    if (folder / str(found.get("model", ""))).is_dir() and found.get("model"):
        found["model"] = str(folder / str(found["model"]))
    return found


def _absolute(recipe: Recipe) -> Recipe:
    """Give the recipe with paths that mean the same from every folder."""
    changes: dict[str, Any] = {
        key: str(Path(path).absolute()) for key in ("data", "valid", "test") if (path := getattr(recipe, key))
    }
    if Path(recipe.model).expanduser().is_dir():
        changes["model"] = str(Path(recipe.model).expanduser().absolute())
    return dataclasses.replace(recipe, **changes, out="")
