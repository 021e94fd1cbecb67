"""How many tokens a CPU second writes: Transformers' `generate` against Tunesmith, in float, in 8 bits, with guesses.

    python benchmarks/writing_speed.py
    python benchmarks/writing_speed.py --kinds causal --batches 1 16 --prompts 64 512 --rounds 3

Fresh models of the families that `tunesmith pretrain` makes (GPT-2 and T5): speed does not depend on what the weights
know. Every contestant writes the same number of tokens, because there is no end token, except in the contest `ends`,
in which rows end at different times. Guesses pay where a text repeats itself or what was read; a fresh model soon goes
round in a circle, so what is shown of them is the best case. The contestants take turns in every round; medians of CPU
seconds, one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tunesmith.tasks.wording import Wording
from tunesmith.tasks.writing import Manner, write

PLAIN, SURE, OURS = "generate", "generate, scored", "tunesmith"
INT8, GUESSED = "tunesmith, int8", "tunesmith, speculate=10"


def make(kind: str, place: Path, sizes: argparse.Namespace) -> tuple[Any, Any]:
    """Give a fresh model, and the tokenizer of the folder that it lies in."""
    names = {"<pad>": 0, "<end>": 1, **{f"w{number}": number for number in range(2, sizes.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    shared = {"vocab_size": sizes.vocabulary, "pad_token_id": 0, "eos_token_id": 1}
    width, blocks = sizes.width, sizes.blocks
    if kind == "causal":
        shape = {"n_embd": width, "n_layer": blocks, "n_head": width // 64, "n_positions": 1024}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shared, **shape, bos_token_id=1))
    else:
        shape = {"d_model": width, "d_kv": 64, "d_ff": 4 * width, "num_layers": blocks, "num_heads": width // 64}
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(**shared, **shape, decoder_start_token_id=0)
        )
    model.save_pretrained(place)
    fast.save_pretrained(place)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(place)


def plainly(model: Any, sources: list[list[int]], new: int, end: int | None, *, is_causal: bool) -> int:
    """Write with `generate`, all sources at once, padded as it asks; give the tokens up to each end."""
    width = max(map(len, sources))
    side = (lambda row: [0] * (width - len(row)) + row) if is_causal else (lambda row: row + [0] * (width - len(row)))
    ids = torch.tensor([side(row) for row in sources])
    mask = torch.tensor([side([1] * len(row)) for row in sources])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=end, pad_token_id=0
        )
    rows = out[:, width if is_causal else 1 :].tolist()
    return sum(row.index(end) + 1 if end in row else len(row) for row in rows)


def plainly_and_scored(model: Any, sources: list[list[int]], new: int, *, is_causal: bool) -> int:
    """Write with `generate`, and pass the texts through the model once more for their probabilities.

    Tunesmith answers with a confidence and notes them while it writes.
    """
    width = max(map(len, sources))
    side = (lambda row: [0] * (width - len(row)) + row) if is_causal else (lambda row: row + [0] * (width - len(row)))
    ids, mask = torch.tensor([side(row) for row in sources]), torch.tensor([side([1] * len(row)) for row in sources])
    given = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=mask, **given)
        if is_causal:
            longer = torch.cat([mask, torch.ones_like(out[:, width:])], 1)
            logits = model(input_ids=out, attention_mask=longer).logits[:, width - 1 : -1]
            out = out[:, width:]
        else:
            out = out[:, 1:]
            logits = model(input_ids=ids, attention_mask=mask, labels=out).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), out.flatten(), reduction="none")
    return int(out.numel())


def ours(model: Any, sources: list[list[int]], wording: Wording, manner: Manner) -> int:
    """Write with Tunesmith, all sources at once; give the tokens up to each end."""
    found = write(model, sources, wording=wording, manner=manner, batch_tokens=1_000_000)
    return sum(len(each.ids) for each in found)


def measure(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, Any]]:
    """Let all take turns; give tokens, CPU seconds of each round and tokens per CPU second in the middle."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    tokens: dict[str, int] = {}
    for each in range(rounds + 1):  # the first is for warming up
        for name, run in contestants.items():
            start = time.process_time()
            tokens[name] = run()
            if each:
                seconds[name].append(time.process_time() - start)
    return {
        name: {
            "tokens": tokens[name],
            "cpu_seconds": took,
            "tokens_per_cpu_second": tokens[name] / statistics.median(took),
        }
        for name, took in seconds.items()
    }


def contest(kind: str, model: Any, tokenizer: Any, sources: list[list[int]], options: Any) -> dict[str, Any]:
    """Measure plain `generate`, ours, ours in 8 bits, and ours with guesses where one text is written alone."""
    wording, new = Wording(tokenizer), options.new
    manner = Manner(new)
    never = options.vocabulary  # an end token that no model writes
    wording.end = never
    model.generation_config.eos_token_id = None
    is_causal = kind == "causal"
    small = dataclasses.replace(manner, weights="int8")
    contestants: dict[str, Callable[[], int]] = {
        PLAIN: lambda: plainly(model, sources, new, None, is_causal=is_causal),
        SURE: lambda: plainly_and_scored(model, sources, new, is_causal=is_causal),
        OURS: lambda: ours(model, sources, wording, manner),
        INT8: lambda: ours(model, sources, wording, small),
    }
    if len(sources) == 1:
        guessed = dataclasses.replace(manner, speculate=10)
        contestants[GUESSED] = lambda: ours(model, sources, wording, guessed)
    return measure(contestants, options.rounds)


def with_ends(kind: str, model: Any, tokenizer: Any, sources: list[list[int]], options: Any) -> dict[str, Any]:
    """Measure rows that end at different times: a token that the model happens to write is the end."""
    wording, is_causal = Wording(tokenizer), kind == "causal"
    wording.end = options.vocabulary
    found = write(model, sources, wording=wording, manner=Manner(options.new), batch_tokens=1_000_000)
    counts: dict[int, int] = {}
    for each in found:
        for token in set(each.ids):
            counts[token] = counts.get(token, 0) + 1
    wording.end = end = max(counts, key=lambda token: (counts[token], -token))
    manner = Manner(options.new)
    return measure(
        {
            PLAIN: lambda: plainly(model, sources, options.new, end, is_causal=is_causal),
            OURS: lambda: ours(model, sources, wording, manner),
        },
        options.rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["causal", "seq2seq"], choices=["causal", "seq2seq"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="rows written at once")
    parser.add_argument("--prompts", nargs="+", type=int, default=[64, 512], help="tokens that are read")
    parser.add_argument("--new", type=int, default=64, help="tokens that are written")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="folder for writing_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    results = []
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            model, tokenizer = make(kind, Path(folder) / kind, options)
            for batch in options.batches:
                for prompt in options.prompts:
                    # Lengths of the rows differ by a quarter, as those of one batch do after sorting.
                    lengths = [prompt - (prompt // 4) * row // max(batch, 2) for row in range(batch)]
                    sources = [
                        torch.randint(2, options.vocabulary, (length,), generator=generator).tolist()
                        for length in lengths
                    ]
                    kinds = {"same length": contest} | ({"ends": with_ends} if batch > 1 else {})
                    for name, run in kinds.items():
                        found = run(kind, model, tokenizer, sources, options)
                        results.append(
                            {"kind": kind, "batch": batch, "prompt": prompt, "contest": name, "found": found}
                        )
                        base = found[PLAIN]["tokens_per_cpu_second"]
                        for who, each in found.items():
                            speed = each["tokens_per_cpu_second"]
                            print(
                                f"{kind:8} batch {batch:3} prompt {prompt:4} {name:12} {who:24}"
                                f"{each['tokens']:6} tokens {speed:8.0f} /CPU s {speed / base:6.2f}",
                                flush=True,
                            )
    if options.out:
        place = Path(options.out)
        place.mkdir(parents=True, exist_ok=True)
        content = {"options": {**vars(options)}, "results": results}
        (place / "writing_speed.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
