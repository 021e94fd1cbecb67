"""The same few rows for everyone: method contrastive against SetFit, full tuning, a linear probe and TF-IDF.

    python benchmarks/contrastive.py FOLDER/banking77_en FOLDER/clinc150_en --shots 8,16 --seeds 5 \\
        --peers setfit,full,probe,tfidf --setfit-python /path/to/python

A seed draws `shots` rows of each label, and that is all that anybody has: who needs validation rows (Tunesmith) takes
them out of these. SetFit learns as its paper did, one epoch over 20 times two pairs for each row, batch 16, from the
same base model. The test rows are the data's own. Training seconds are CPU seconds of the training alone (Tunesmith's
with its evaluations); those of the whole process hold imports, baselines, answering the test rows and the report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import HERE, Contestant, Figure, Run, contest, figure, keep, of, ratio
from few_labels import cost, draw
from rows import cut

from tunesmith.models.find import find_base

OURS, SETFIT = "tunesmith contrastive", "SetFit"
PEERS = {"setfit": SETFIT, "full": "tunesmith full", "probe": "tunesmith probe", "tfidf": "TF-IDF"}
RECIPES: dict[str, dict[str, Any]] = {
    OURS: {"method": "contrastive"},
    PEERS["full"]: {"method": "full"},
    PEERS["probe"]: {"method": "top-layers", "top_layers": 0},
}


def field(options: argparse.Namespace) -> list[Contestant]:
    """Give those who compete, ours first."""
    names = [OURS, *(PEERS[peer] for peer in options.peers.split(",") if peer)]
    found = []
    for name in names:
        if name == SETFIT:
            iterations = {"num_iterations": options.num_iterations}
            found.append(Contestant(name, "setfit_train", iterations, python=options.setfit_python))
        elif name in RECIPES:
            found.append(Contestant(name, "tunesmith_train", {"recipe": RECIPES[name]}))
        else:
            found.append(Contestant(name, "tfidf_train"))
    return found


def figures_of(runs: list[Run], case: str) -> list[Figure]:
    """Give accuracy and CPU seconds of each, and ours beside SetFit's round by round."""
    found: list[Figure] = []
    for name in dict.fromkeys(run.contestant for run in runs):
        mine = of(runs, name, case).values()
        found += figure(f"{name}: accuracy", [100 * run.value("test") for run in mine], unit="%", case=case)
        found += figure(f"{name}: training", [cost(run) for run in mine], unit="CPU s", case=case)
        found += figure(f"{name}: whole process", [run.cpu_seconds for run in mine], unit="CPU s", case=case)
    ours, theirs = of(runs, OURS, case), of(runs, SETFIT, case)
    both = sorted(ours.keys() & theirs.keys())
    shares = [cost(ours[number]) / cost(theirs[number]) for number in both]
    found += figure(f"{OURS} / {SETFIT}: training", shares, unit="of the CPU s", goal="0.2", case=case)
    points = [100 * (ours[number].value("test") - theirs[number].value("test")) for number in both]
    found += figure(f"{OURS} - {SETFIT}: accuracy", points, unit="points", goal="0", case=case)
    name = f"{OURS} / {SETFIT}: whole process"
    return found + ratio(runs, OURS, SETFIT, value="cpu_seconds", case=case, name=name, unit="of the CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folders with train.csv and test.csv, also packed (.gz)")
    parser.add_argument("--shots", default="8,16", help="rows of each label")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws")
    parser.add_argument("--peers", default="setfit,full,probe,tfidf", help=f"of: {', '.join(PEERS)}; or empty")
    parser.add_argument("--test-rows", type=int, default=1_000_000, help="most test rows")
    parser.add_argument("--model", default="minilm", help="base model: minilm, or a folder")
    parser.add_argument("--num-iterations", type=int, default=20, help="pairs of each kind that SetFit makes of a row")
    parser.add_argument("--setfit-python", default=sys.executable, help="SetFit may need an environment of its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON")
    parser.add_argument("--name", default="", help="name of the JSON (default: contrastive)")
    options = parser.parse_args()
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for path in options.data:
            slice_ = cut(path, path.name, place, rows=1_000_000, test_rows=options.test_rows)
            about = {"model": options.model, "model_folder": str(find_base(options.model).folder), "max_length": 64}
            whole = {**slice_.job(), **about, "threads": options.threads, "valid": "", "tokens_per_epoch": 0}
            for shots in map(int, options.shots.split(",")):

                def each(number: int, whole: dict[str, Any] = whole, shots: int = shots) -> dict[str, Any]:
                    return {"train": draw(whole["train"], place, shots, number)[0], "seed": number}

                case = f"{path.name}, {shots} of each"
                runs += contest(field(options), whole, rounds=options.seeds, case=case, each_round=each)
                figures += figures_of(runs, case)
    keep("contrastive", options, runs, figures)


if __name__ == "__main__":
    main()
