"""Few labels in Chinese: pattern-verbaliser training against plain fine-tuning, on the five draws of FewCLUE's sets.

    python benchmarks/few_labels_zh.py corpus --data FOLDER --out texts.txt
    tunesmith pretrain texts.txt --objective mlm --size mini --seconds 3600 --out BASE
    python benchmarks/few_labels_zh.py run --data FOLDER --base BASE --draws 0 1 2 3 4 --out few_labels_zh.json

`corpus` writes the texts of Chinese reviews and headlines, without their labels and without a text of the test rows.
`run` trains on `train_N`, chooses the best epoch by `dev_N` and scores on `test_public`; a draw's number is its seed.
It goes on where it was stopped: what stands in the result file is not run again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOPICS = {
    "news_story": "故事",
    "news_culture": "文化",
    "news_entertainment": "娱乐",
    "news_sports": "体育",
    "news_finance": "财经",
    "news_house": "房产",
    "news_car": "汽车",
    "news_edu": "教育",
    "news_tech": "科技",
    "news_military": "军事",
    "news_travel": "旅游",
    "news_world": "国际",
    "news_stock": "股票",
    "news_agriculture": "农业",
    "news_game": "游戏",
}
SETS: dict[str, dict[str, Any]] = {
    "eprstmt": {"columns": "text=sentence,label=label", "label_words": "Positive=好|棒,Negative=差|糟"},
    "tnews": {
        "columns": "text=sentence,label=label_desc",
        "label_words": ",".join(f"{label}={word}" for label, word in TOPICS.items()),
    },
    "bustm": {"task": "text-pair", "columns": "text_a=sentence1,text_b=sentence2,label=label"},
}
CORPORA = ("chnsenticorp_zh", "waimai_zh", "toutiao_small_zh")
ASKING = {"pet", "few-shot", "zero-shot"}


def read_text(path: Path) -> str:
    """Give the text of a file, packed or not."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            return file.read()
    return path.read_text(encoding="utf-8-sig")


def part(folder: Path, name: str) -> Path:
    """Give the file of a part, packed or not."""
    return next(path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file())


def texts_of(folder: Path) -> Iterator[str]:
    """Yield the texts of a classification set's training rows."""
    found = next(path for path in (folder / "train.csv.gz", folder / "train.csv") if path.is_file())
    for row in csv.DictReader(io.StringIO(read_text(found))):
        yield max((value or "" for value in row.values()), key=len)


def write_corpus(options: argparse.Namespace) -> None:
    """Write one text a line, each once, and none that a test row holds."""
    tested = set()
    for name in SETS:
        rows = map(
            json.loads, read_text(part(options.data / "fewshot" / f"fewclue_{name}_zh", "test_public")).splitlines()
        )
        tested |= {str(value).strip() for row in rows for key, value in row.items() if key.startswith("sentence")}
    texts = dict.fromkeys(
        " ".join(text.split()) for name in CORPORA for text in texts_of(options.data / "classification" / name)
    )
    kept = [text for text in texts if text and text not in tested]
    options.out.write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"{len(kept):,} texts, {sum(map(len, kept)):,} characters; {len(texts) - len(kept):,} left out")


def score(options: argparse.Namespace, name: str, method: str, draw: int) -> dict[str, Any]:
    """Run one method on one draw, and give its scores."""
    import tunesmith

    folder = options.data / "fewshot" / f"fewclue_{name}_zh"
    given = {key: value for key, value in SETS[name].items() if key != "label_words" or method in ASKING}
    extra = dict(item.partition("=")[::2] for item in options.set)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        run = tunesmith.train(
            str(part(folder, f"train_{draw}")),
            valid=str(part(folder, f"dev_{draw}")),
            test=str(part(folder, "test_public")),
            model=str(options.base),
            method=method,
            seed=draw,
            threads=options.threads,
            out=str(Path(place) / "run"),
            **given,
            **extra,
        )
        gain = run.gain
    before = None if gain.before is None else gain.before.value
    naive = {key: scores.value for key, scores in gain.baselines.items()}
    seconds = time.perf_counter() - start
    found = {"accuracy": gain.after.value, "before": before, "naive": naive, "rows": gain.after.n, "seconds": seconds}
    return {"set": name, "method": method, "draw": draw, **found}


def table(results: list[dict[str, Any]]) -> str:
    """Give the mean, the spread and the number of draws for each set and method."""
    lines = [
        "| set | method | accuracy: mean (least to most) | draws | before | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in dict.fromkeys((one["set"], one["method"]) for one in results):
        own = [one for one in results if (one["set"], one["method"]) == (name, method)]
        points = [100 * one["accuracy"] for one in own]
        before = [100 * one["before"] for one in own if one["before"] is not None]
        shown = f"{statistics.mean(points):.1f} ({min(points):.1f} to {max(points):.1f})"
        first = f"{statistics.mean(before):.1f}" if before else ""
        seconds = statistics.mean(one["seconds"] for one in own)
        lines.append(f"| {name} | {method} | {shown} | {len(own)} | {first} | {seconds:.0f} |")
    return "\n".join(lines)


def run_all(options: argparse.Namespace) -> None:
    """Run what is not in the result file yet, and print the table."""
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else []
    done = {(one["set"], one["method"], one["draw"]) for one in results}
    for name in options.sets:
        for draw in options.draws:
            for method in options.methods:
                if (name, method, draw) in done:
                    continue
                results.append(score(options, name, method, draw))
                options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                print(f"{name} draw {draw} {method}: {results[-1]['accuracy']:.3f} in {results[-1]['seconds']:.0f} s")
    print(table(results))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    corpus = commands.add_parser("corpus", help="write the texts to pretrain on")
    corpus.add_argument("--data", type=Path, required=True)
    corpus.add_argument("--out", type=Path, required=True)
    corpus.set_defaults(run=write_corpus)
    runs = commands.add_parser("run", help="run the methods on the draws")
    runs.add_argument("--data", type=Path, required=True)
    runs.add_argument("--base", type=Path, required=True, help="a masked language model of Chinese")
    runs.add_argument("--sets", nargs="+", default=["eprstmt", "tnews"], choices=SETS)
    runs.add_argument("--methods", nargs="+", default=["full", "pet"])
    runs.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    runs.add_argument("--threads", type=int, default=1)
    runs.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="recipe keys for every run")
    runs.add_argument("--out", type=Path, default=Path("few_labels_zh.json"))
    runs.set_defaults(run=run_all)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
