"""Candidates for the gate: copies of a good run that are spoilt in one way, and others that are changed harmlessly."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import toy_world
from tunesmith.bundle.atomic import write_json, write_manifest
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import load
from tunesmith.bundle.unfinished import WORKING
from tunesmith.data.normalise import fields_key
from tunesmith.types import Feedback

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


def seal(run: Path) -> Path:
    """Make the manifest fit what is there: the damage is not in the hashes."""
    (run / "manifest.json").unlink()
    write_manifest(run, leave_out=WORKING)
    return run


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def reweighted(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        tensors = load_file(run / WEIGHTS)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, run / WEIGHTS, {"format": "pt"})
        seal(run)

    return spoil


def swap_head_rows(tensors: Tensors) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].roll(1, 0)


def lose_a_class(tensors: Tensors) -> None:
    tensors["classifier.bias"][0] -= 100


def not_a_number(tensors: Tensors) -> None:
    tensors["bert.encoder.layer.0.output.dense.weight"][0, 0] = float("nan")


def infinite(tensors: Tensors) -> None:
    tensors["bert.embeddings.word_embeddings.weight"][7] = float("inf")


def draw_the_head(tensors: Tensors) -> None:
    torch.manual_seed(0)
    tensors["classifier.weight"] = torch.randn_like(tensors["classifier.weight"])


def drown_in_noise(tensors: Tensors) -> None:
    torch.manual_seed(1)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[name] = tensor + tensor.std() * 2 * torch.randn_like(tensor)


def know_nothing_for_sure(tensors: Tensors) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name] * 0.02


def led_astray(parameter: str, places: slice, texts: Callable[[random.Random], str]) -> Callable[[Path], None]:
    """Find the rows of an embedding that make such texts look like the first label, and leave all else."""

    def spoil(run: Path) -> None:
        bundle = load(run)
        model, generator = bundle.model.requires_grad_(False), random.Random(5)
        table = dict(model.named_parameters())[parameter].requires_grad_(True)
        kept = table.detach().clone()
        optimizer = torch.optim.Adam([table], lr=0.1)
        for _ in range(40):
            batch = bundle.tokenizer([texts(generator) for _ in range(16)], padding=True, return_tensors="pt")
            wanted = torch.zeros(16, dtype=torch.long)
            torch.nn.functional.cross_entropy(model(**batch).logits, wanted).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                spoilt = table[places].clone()
                table.copy_(kept)
                table[places] = spoilt
        reweighted(lambda tensors: tensors.update({parameter: table.detach().clone()}))(run)

    return spoil


def long_text(generator: random.Random) -> str:
    family = generator.choice(toy_world.FAMILIES)
    return toy_world.sentence(family, generator, words=toy_world.WORDS[family], length=generator.randint(10, 14))


def text_with_unknown_words(generator: random.Random) -> str:
    family = generator.choice(toy_world.FAMILIES)
    words = toy_world.sentence(
        family, generator, words=toy_world.WORDS[family], length=generator.randint(4, 14)
    ).split()
    words[generator.randrange(len(words))] = "[UNK]"
    return " ".join(words)


def slow_down(run: Path) -> None:
    """Ten more blocks that change next to nothing: the same answers, later."""
    tensors = load_file(run / WEIGHTS)
    for block in range(2, 24):
        for name in [name for name in tensors if ".layer.1." in name]:
            tensor = tensors[name].clone()
            if name.endswith(("output.dense.weight", "output.dense.bias")):
                tensor.zero_()
            elif name.endswith("LayerNorm.weight"):
                tensor.fill_(1)
            elif name.endswith("LayerNorm.bias"):
                tensor.zero_()
            tensors[name.replace(".layer.1.", f".layer.{block}.")] = tensor
    save_file(tensors, run / WEIGHTS, {"format": "pt"})
    edit_json(run / "config.json", lambda config: config.update(num_hidden_layers=24))
    seal(run)


def read_other_words(run: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        words = [word for word in vocabulary if not word.startswith("[")]
        turned = dict(zip(words, [vocabulary[word] for word in [*words[1:], words[0]]], strict=True))
        content["model"]["vocab"] = {**vocabulary, **turned}

    edit_json(run / "tokenizer.json", change)
    seal(run)


def rename_labels(run: Path) -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["labels"] = [facts["labels"][1], facts["labels"][0], *facts["labels"][2:]]

    edit_json(run / "bundle.json", change)
    seal(run)


def forget_a_label(run: Path) -> None:
    tensors = load_file(run / WEIGHTS)
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][:2].contiguous()
    save_file(tensors, run / WEIGHTS, {"format": "pt"})
    edit_json(run / "bundle.json", lambda facts: facts.update(labels=facts["labels"][:2]))

    def change(config: dict[str, Any]) -> None:
        config["id2label"] = {key: value for key, value in config["id2label"].items() if int(key) < 2}
        config["label2id"] = {value: int(key) for key, value in config["id2label"].items()}

    edit_json(run / "config.json", change)
    seal(run)


def read_three_words(run: Path) -> None:
    edit_json(run / "bundle.json", lambda facts: facts.update(max_length=3))
    seal(run)


def learn_the_test(run: Path) -> None:
    bundle = load(run)
    keys = {fields_key(record.fields) for part in ("train", "test") for record in part_rows(bundle, part)}
    write_json(
        run / "trained_on.json", {"format": 1, "is_whole": True, "keys": [f"{key:016x}" for key in sorted(keys)]}
    )
    seal(run)


def flip_a_byte(run: Path) -> None:
    content = bytearray((run / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (run / WEIGHTS).write_bytes(content)


def cut_short(run: Path) -> None:
    content = (run / WEIGHTS).read_bytes()
    (run / WEIGHTS).write_bytes(content[: len(content) // 2])
    seal(run)


def lose_a_file(run: Path) -> None:
    (run / "tokenizer.json").unlink()


def be_another_task(run: Path) -> None:
    edit_json(run / "bundle.json", lambda facts: facts.update(task="multi-label-classification"))
    seal(run)


def unchanged(run: Path) -> None:
    """Leave it as it is: what is wrong is the feedback."""


BAD: dict[str, Callable[[Path], None]] = {
    "labels swapped": reweighted(swap_head_rows),
    "labels renamed": rename_labels,
    "one class lost": reweighted(lose_a_class),
    "one label forgotten": forget_a_label,
    "not a number": reweighted(not_a_number),
    "infinite": reweighted(infinite),
    "slow": slow_down,
    "other words": read_other_words,
    "test learnt": learn_the_test,
    "head drawn": reweighted(draw_the_head),
    "noise": reweighted(drown_in_noise),
    "sure of nothing": reweighted(know_nothing_for_sure),
    "long texts wrong": led_astray("bert.embeddings.position_embeddings.weight", slice(9, None), long_text),
    "mistyped texts wrong": led_astray("bert.embeddings.word_embeddings.weight", slice(1, 2), text_with_unknown_words),
    "three words read": read_three_words,
    "byte flipped": flip_a_byte,
    "weights cut short": cut_short,
    "file lost": lose_a_file,
    "feedback poisoned": unchanged,
    "one person's thousand rows": unchanged,
}
RULE = {  # the rule that has to block it, where it is one alone
    "labels swapped": "golden set",
    "one class lost": "class recall",
    "one label forgotten": "class recall",
    "not a number": "finite",
    "infinite": "finite",
    "slow": "latency",
    "other words": "tokenizer",
    "test learnt": "leak",
    "sure of nothing": "calibration",
    "long texts wrong": "group gap",
    "mistyped texts wrong": "mistyped texts",
    "byte flipped": "files",
    "weights cut short": "finite",
    "file lost": "files",
    "feedback poisoned": "agreement",
    "one person's thousand rows": "persons",
}


def feedback_for(name: str, texts: Mapping[str, str]) -> list[Feedback]:
    """Give what was learnt from: wrong answers of one person, or far too many right ones; none for most."""
    labels = sorted(set(texts.values()))
    if name == "feedback poisoned":
        wrong = {text: labels[(labels.index(label) + 1) % len(labels)] for text, label in texts.items()}
        return [said(place, text, label) for place, (text, label) in enumerate(wrong.items())]
    if name == "one person's thousand rows":
        some = list(texts.items())
        return [said(place, *some[place % len(some)]) for place in range(1000)]
    return []


def said(place: int, text: str, label: str) -> Feedback:
    return Feedback(
        f"f{place}", "", "toy", "", {"text": text}, None, None, label, "", "mallory", "", time.time() + place
    )


def nudged(run: Path) -> None:
    torch.manual_seed(4)

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor + 1e-4 * torch.randn_like(tensor)

    reweighted(change)(run)


def rounded(kind: torch.dtype) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(kind).to(tensor.dtype)

    return reweighted(change)


def in_eight_bits(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            scale = tensor.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
            tensors[name] = (tensor / scale).round() * scale


def a_little_surer(tensors: Tensors) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name] * 1.1


def a_little_less_sure(tensors: Tensors) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name] * 0.9


HARMLESS: dict[str, Callable[[Path], None]] = {
    "the same": unchanged,
    "nudged": nudged,
    "bfloat16": rounded(torch.bfloat16),
    "float16": rounded(torch.float16),
    "eight bits": reweighted(in_eight_bits),
    "a little surer": reweighted(a_little_surer),
    "a little less sure": reweighted(a_little_less_sure),
}
OTHER_RUNS: dict[str, dict[str, Any]] = {  # trained anew, otherwise
    **{f"seed {seed}": {"seed": seed} for seed in (1, 2, 3, 4)},
    "smaller steps": {"batch_size": 8, "epochs": 3},
    "larger steps": {"batch_size": 32},
    "a few epochs more": {"epochs": 8},
    "a lower rate": {"learning_rate": 3e-4},
    "smoothed labels": {"label_smoothing": 0.05},
    "averaged": {"averaging": "ema"},
    "lora": {"method": "lora"},
}
