"""Make a folder to start from: sample data (support messages in English and Chinese) and a commented recipe."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem

SAMPLE = "support_messages.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="folder to make")
    parser.add_argument("--force", action="store_true", help="write over files that are there")


def run(options: argparse.Namespace, output: Output) -> int:
    """Write the two files."""
    from tunesmith.training.recipe import Recipe, write_recipe

    folder = Path(options.folder)
    if folder.is_file():
        raise PlanProblem(f"{folder} is a file", where=str(folder), do="choose a name for a new folder")
    recipe = Recipe(data=SAMPLE, text="message", label="topic")
    contents = {
        SAMPLE: files("tunesmith.data").joinpath("samples", SAMPLE).read_bytes(),
        "recipe.yaml": write_recipe(recipe, comments=True).encode("utf-8"),
    }
    taken = [name for name in contents if (folder / name).exists()]
    if taken and not options.force:
        raise PlanProblem(
            f"{folder} already has {' and '.join(taken)}", where=str(folder), do="choose another folder, or --force"
        )
    from tunesmith.bundle.atomic import explain_os_errors, write_file

    with explain_os_errors(folder, "making the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_file(folder / name, content)
    output.document({"folder": folder, "files": list(contents)})
    output.say(f"{folder / SAMPLE}   640 labelled messages, English and Chinese")
    output.say(f"{folder / 'recipe.yaml'}   every option, explained")
    output.say(f"next     tunesmith train {folder / 'recipe.yaml'}")
    return 0
