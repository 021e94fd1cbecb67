"""Write the tables and charts of docs/performance.md from the JSON that the benchmarks left; nothing is typed by hand.

    python benchmarks/report.py [--results benchmarks/results] [--document docs/performance.md]

Between `<!-- bench:NAME -->` and `<!-- end -->` stands what `results/NAME.json` says: a chart of its ratios, the table
of figures, the machine, and who could not run and why. Everything outside of the markers stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from chart import draw
from contest import HERE, figure_table
from memory import table as memory_table

_EVERY_ROW = 1_000_000  # where a benchmark draws the rows itself
_BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def section(result: dict[str, Any], charts: Path, document: Path) -> str:
    """Give the Markdown of one benchmark, and write its chart."""
    lines = []
    ratios = [each for each in result["figures"] if each["unit"] == "times"]
    if ratios:
        charts.mkdir(parents=True, exist_ok=True)
        path = charts / f"{result['benchmark']}.svg"
        path.write_text(draw(ratios), encoding="utf-8")
        named = path.relative_to(document.parent).as_posix()
        lines += [f"![{result['benchmark']}: times faster, median and range]({named})", ""]
    lines += [figure_table(result["figures"]), ""]
    missing = {(run["contestant"], run["not_run"]) for run in result["runs"] if run["not_run"]}
    lines += [f"- not run: {name}: {reason}" for name, reason in sorted(missing)]
    lines += ([""] if missing else []) + [about(result), ""]
    return "\n".join(lines)


def about(result: dict[str, Any]) -> str:
    """Say when, where and how it was measured, in one paragraph."""
    machine, options = result["machine"], result["options"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = " ".join(f"{key}={value}" for key, value in options["set"].items())
    rows = f"{options['rows']:,} training rows, " if options["rows"] < _EVERY_ROW else ""
    told = f"{rows}{options['rounds']} rounds, {machine['threads']} thread(s)"
    told += f", {settings}" if settings else ""
    return (
        f"Measured {result['made'][:10]} on {machine['processor']}, {machine['cores']} cores, load before "
        f"{machine['load_before']}: {told}. {versions}."
    )


def write(document: Path, results: Path) -> list[str]:
    """Fill every block of the document whose benchmark has a result; give their names."""
    filled = []

    def fill(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.is_file():
            return match[0]
        filled.append(match[2])
        result = json.loads(path.read_text(encoding="utf-8"))
        if match[2] == "memory":  # its results are stages by number of rows, and it draws its own table
            return f"{match[1]}{memory_table({int(rows): each for rows, each in result.items()})}\n{match[3]}"
        return match[1] + section(result, document.parent / "performance", document) + match[3]

    content = document.read_text(encoding="utf-8")
    document.write_text(_BLOCK.sub(fill, content), encoding="utf-8")
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "performance.md")
    options = parser.parse_args()
    filled = write(options.document, options.results)
    print(f"{options.document}: {', '.join(filled) or 'nothing to fill'}")


if __name__ == "__main__":
    main()
