"""Parse one command's arguments, run it, and turn every error into its three parts and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from tunesmith.cli import ALIASES, COMMANDS
from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem, TunesmithError, nearest_first
from tunesmith.training.launch import is_told


class _Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are errors of the family."""

    def error(self, message: str) -> NoReturn:
        raise PlanProblem(message, where="command line", do=f"{self.prog} --help lists the options")


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run the command of that name; give the exit code."""
    output = Output(is_json="--json" in arguments, is_quiet="--quiet" in arguments)
    try:
        return _run(name, arguments, output)
    except TunesmithError as error:
        if not is_told(error):
            output.fail(error)
        if "--debug" in arguments:
            traceback.print_exc()
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        fault = TunesmithError(
            f"this is a fault of Tunesmith: {type(error).__name__}: {error}",
            where=f"tunesmith {name}",
            do="run it again with --debug and report what it prints",
        )
        fault.exit_code = 1
        if not is_told(fault):
            output.fail(fault)
        return 1


def _hyphened(argument: str) -> str:
    """Read `--learning_rate` as `--learning-rate`: people copy the names of keys."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument


def _run(name: str, arguments: Sequence[str], output: Output) -> int:
    if name not in COMMANDS:
        raise PlanProblem(
            f"no command '{name}'", where="command line", do=f"use one of: {nearest_first(name, [*COMMANDS, *ALIASES])}"
        )
    command = importlib.import_module(f"tunesmith.cli.{name.replace('-', '_')}")
    parser = _Parser(
        prog=f"tunesmith {name}",
        description=command.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON document on stdout; words go to stderr")
    group.add_argument("--quiet", action="store_true", help="no words, only what was asked for")
    group.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    options = parser.parse_args([_hyphened(argument) for argument in arguments])
    options.command_line = (name, *arguments)  # for a command that starts itself in several processes
    code: int = command.run(options, output)
    return code
