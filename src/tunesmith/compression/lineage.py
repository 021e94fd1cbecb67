"""What a compressed bundle says of itself: where it comes from, what was done, what each step cost."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, TEMPORARY, sync, write_file, write_json
from tunesmith.bundle.compressed import FILE, FORMAT
from tunesmith.bundle.exported import FOLDER as EXPORTS
from tunesmith.bundle.load import Bundle
from tunesmith.bundle.report_again import report_again
from tunesmith.bundle.unfinished import WORKING
from tunesmith.compression.measured import Step, as_table
from tunesmith.models.find import hash_file

_LEFT_OUT = {*WORKING, EXPORTS, "evaluations", MANIFEST, FILE}


def copy_run(parent: Bundle, folder: Path, name: str) -> None:
    """Write a run anew that is the parent with a name and an id of its own, for what changes no weights.

    Args:
        parent: Whole.
        folder: Not there yet.
        name: Of the new bundle.
    """
    shutil.copytree(
        parent.path,
        folder,
        ignore=lambda place, names: {
            one for one in names if (Path(place) == parent.path and one in _LEFT_OUT) or one.startswith(TEMPORARY)
        },
    )
    plan = dataclasses.replace(parent.plan, parent=parent.id)
    write_json(folder / "plan.json", plan)
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    write_json(folder / "bundle.json", {**facts, "id": plan.id, "name": name})
    manifest = json.loads((parent.path / MANIFEST).read_text(encoding="utf-8"))
    manifest.pop("export", None)
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / MANIFEST, {**manifest, "id": plan.id, "files": files})


def write_lineage(
    folder: Path,
    parent: Bundle,
    steps: Sequence[Step],
    *,
    command: str,
    asked: Mapping[str, Any],
    remarks: Sequence[str],
) -> None:
    """Write what was done into a finished run: `compression.json`, a section of report and card, a line in the recipe.

    Args:
        folder: The run, with its manifest.
        parent: The run that was compressed.
        steps: As measured, the run itself first.
        command: That repeats it.
        asked: The wishes.
        remarks: What the person should know.
    """
    content = {
        "format": FORMAT,
        "parent": parent.id,
        "parent_name": parent.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "asked": asked,
        "metric": str(parent.plan.options["metric"]),
        "remarks": list(remarks),
        "steps": as_table(steps),
    }
    write_json(folder / FILE, content)
    write_file(folder / "report.html", report_again(folder, created=str(content["created"])))
    _card(folder, content)
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    write_file(folder / "recipe.yaml", f"# one step of: {command}\n{recipe}")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in (FILE, "report.html", "README.md", "recipe.yaml"):
        manifest["files"][name] = _entry(folder / name)
    write_json(folder / MANIFEST, manifest)


def _entry(path: Path) -> dict[str, Any]:
    sync(path)
    return {"sha256": hash_file(path), "bytes": path.stat().st_size}


def _card(folder: Path, content: Mapping[str, Any]) -> None:
    """Add to the model card what was done; no path, for a card is made to be shown."""
    first, last = content["steps"][0], content["steps"][-1]
    lines = [
        "",
        "## How it was made smaller",
        "",
        f"From the run `{content['parent']}`: " + ", then ".join(step["name"] for step in content["steps"][1:]) + ".",
        f"{content['metric']} {last['score']:.4f} instead of {first['score']:.4f} on {first['n']:,} test rows, "
        f"{last['file_mib']:.0f} MiB instead of {first['file_mib']:.0f}, "
        f"{last['milliseconds_p50']:.1f} ms for one answer instead of {first['milliseconds_p50']:.1f} "
        "on the machine that it was measured on.",
    ]
    card = (folder / "README.md").read_text(encoding="utf-8").rstrip("\n")
    write_file(folder / "README.md", card + "\n" + "\n".join(lines) + "\n")
