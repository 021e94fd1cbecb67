"""Check the installation and this machine: versions, devices, disk, models, and the traps that are known."""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output

_MARKS = {"ok": "ok  ", "warning": "note", "error": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(options: argparse.Namespace, output: Output) -> int:
    """Print each finding; 2 when something is broken."""
    from tunesmith.doctor import examine

    findings = examine()
    output.document({"findings": findings})
    for finding in findings:
        output.say(f"{_MARKS[finding.state]}  {finding.name:<14}{finding.what}")
        if finding.do:
            output.say(f"      {'do:':<14}{finding.do}")
    return 2 if any(finding.state == "error" for finding in findings) else 0
