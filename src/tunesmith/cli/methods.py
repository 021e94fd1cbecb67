"""List the methods: what each changes, how much of the base model that is, when to choose it."""

from __future__ import annotations

import argparse
import contextlib

from tunesmith.cli.output import Output
from tunesmith.models import DEFAULT_BASE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("method", nargs="?", default="", help="show this one alone")
    parser.add_argument("--model", default=DEFAULT_BASE, help="base model that shares and rates are for")


def run(options: argparse.Namespace, output: Output) -> int:
    """Print the catalogue, or one entry of it."""
    from tunesmith.cli.tables import methods_table
    from tunesmith.errors import MissingExtra
    from tunesmith.methods import find_method
    from tunesmith.methods.catalogue import describe_methods
    from tunesmith.models.find import find_base
    from tunesmith.training.recipe import Recipe
    from tunesmith.types import to_json

    if options.method:
        find_method(options.method)
    base = None
    with contextlib.suppress(MissingExtra):  # the list is of use without numbers, too
        base = find_base(options.model).folder
    listed = describe_methods(base, vars(Recipe()))
    listed = [method for method in listed if options.method in {"", method.name}]
    output.show(methods_table(listed, options.model))
    output.document([to_json(method) for method in listed])
    return 0
