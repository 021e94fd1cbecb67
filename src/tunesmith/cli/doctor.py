"""Check the installation and this machine: versions, devices, disk, models, and the traps that are known.

A feedback store that is damaged is put back from its last whole backup; stop the service first:
  tunesmith doctor --restore RUN
"""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output

_MARKS = {"ok": "ok  ", "warning": "note", "error": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--store", metavar="RUN|URL", help="look at a feedback store too")
    meaning = "put the newest whole backup of a feedback store in its place; the damaged file is moved aside"
    parser.add_argument("--restore", metavar="RUN|URL", help=meaning)
    parser.add_argument("--from", dest="source", default="", metavar="FILE", help="the backup to restore")


def run(options: argparse.Namespace, output: Output) -> int:
    """Print each finding; 2 when something is broken."""
    from tunesmith.doctor import examine, examine_store

    if options.restore:
        return _restore(options, output)
    findings = [*examine(), *(examine_store(options.store) if options.store else ())]
    output.document({"findings": findings})
    for finding in findings:
        output.say(f"{_MARKS[finding.state]}  {finding.name:<14}{finding.what}")
        if finding.do:
            output.say(f"      {'do:':<14}{finding.do}")
    return 2 if any(finding.state == "error" for finding in findings) else 0


def _restore(options: argparse.Namespace, output: Output) -> int:
    from tunesmith.doctor import restore_store

    done = restore_store(options.restore, options.source)
    output.document(done)
    output.say(f"restored {done.backup}: {done.rows:,} pieces of feedback, {done.rescued:,} of them newer than it")
    if done.damaged is not None:
        output.say(f"the damaged file is {done.damaged}; it holds people's texts: remove it when you need it no more")
    return 0
