# ruff: noqa: RUF009 - `recipe_key` declares a field
"""What a person may ask of a pretraining run: every key with its default, its meaning and what it may be.

The command line's flags and `--set` are made from `PretrainRecipe`. No torch here: `--help` reads this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.pretraining import DOCUMENTS, INITS, MASKINGS, OBJECTIVES, SIZES, TOKENIZERS
from tunesmith.training.recipe_values import AUTO, read_value, recipe_key

CHOICES: Mapping[str, tuple[str, ...]] = {
    "objective": tuple(OBJECTIVES),
    "size": tuple(SIZES),
    "tokenizer": (AUTO, *TOKENIZERS),
    "case": (AUTO, "keep", "lower"),
    "masking": (AUTO, *MASKINGS),
    "init": INITS,
    "documents": (AUTO, *DOCUMENTS),
}
BUDGETS = ("steps", "epochs", "seconds")


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything a person may decide about pretraining. `auto` is resolved in the plan, which is printed first."""

    corpus: tuple[str, ...] = ()  # files of text; the command line's arguments
    objective: str = recipe_key("mlm", "text", "what is learnt: mlm (BERT kind), clm (GPT kind) or seq2seq (T5 kind)")
    size: str = recipe_key("mini", "text", "tiny (2 blocks of 128), mini (4 of 256) or small (6 of 384)")
    model: str = recipe_key(
        "", "text", "go on with this model instead of starting fresh: minilm, a folder, or a hub id"
    )
    tokenizer: str = recipe_key(AUTO, "text", "bpe, wordpiece or characters (auto: by objective and script)")
    vocab_size: Any = recipe_key(
        AUTO, "auto-whole", "entries of the vocabulary (auto: by the corpus)", least=300, most=200_000
    )
    case: str = recipe_key(AUTO, "text", "keep or lower (auto: lower for wordpiece, keep for all else)")
    text: str = recipe_key("", "text", "column that holds the text, in .jsonl, .csv, .parquet (default: inferred)")
    documents: str = recipe_key(
        AUTO, "text", "in .txt files: lines, or paragraphs between blank lines (auto: by the file)"
    )
    valid: str = recipe_key("", "path", "documents to measure on (default: a share of the corpus)")
    valid_share: float = recipe_key(0.05, "number", "share of the documents held out", least=0.0001, most=0.5)
    valid_blocks: int = recipe_key(512, "whole", "most blocks that an evaluation reads", least=1)
    steps: Any = recipe_key(AUTO, "auto-whole", "budget: optimiser steps", least=1)
    epochs: Any = recipe_key(AUTO, "auto-number", "budget: passes over the corpus", least=0.001, most=10_000)
    seconds: Any = recipe_key(AUTO, "auto-number", "budget: seconds of training on this machine", least=1)
    max_length: Any = recipe_key(AUTO, "auto-whole", "tokens of a block (auto: 128; clm 256)", least=16, most=8192)
    masking: str = recipe_key(AUTO, "text", "mlm: token, whole-word, or segmented (Chinese words by jieba)")
    mask_share: float = recipe_key(
        0.15, "number", "share of the tokens that are hidden (mlm, seq2seq)", least=0.01, most=0.6
    )
    span_length: float = recipe_key(3.0, "number", "mean tokens of a hidden span (seq2seq)", least=1, most=20)
    init: str = recipe_key("family", "text", "fresh weights: family (the architecture's own), xavier or he")
    batch_size: Any = recipe_key(
        AUTO, "auto-whole", "blocks behind one optimiser step (auto: 1024 to 4096 tokens)", least=1
    )
    gradient_accumulation_steps: int = recipe_key(1, "whole", "multiplies batch_size, at no cost in memory", least=1)
    batch_tokens: int = recipe_key(4096, "whole", "most tokens in the model at once", least=16)
    learning_rate: Any = recipe_key(
        AUTO, "auto-number", "peak learning rate (auto: by width and objective)", least=0.0, most=10
    )
    weight_decay: float = recipe_key(
        0.01, "number", "decay of matrices; biases and norms never decay", least=0.0, most=1.0
    )
    warmup_ratio: float = recipe_key(0.1, "number", "share of the steps over which the rate rises", least=0.0, most=1.0)
    max_grad_norm: float = recipe_key(1.0, "number", "gradients are clipped to this norm", least=1e-9)
    dropout: Any = recipe_key(
        AUTO, "auto-number", "while training (auto: 0 from scratch, else the model's)", least=0, most=0.9
    )
    patience: int = recipe_key(5, "whole", "evaluations without improvement before training stops", least=1)
    eval_steps: Any = recipe_key(AUTO, "auto-whole", "steps between evaluations (auto: a tenth of the run)", least=1)
    checkpoint_seconds: float = recipe_key(120.0, "number", "most seconds between checkpoints", least=0.0)
    mixed_precision: str = recipe_key(AUTO, "text", "no, bf16 or fp16 (auto: bf16 where the machine has units for it)")
    max_rejected: float = recipe_key(
        0.01, "number", "most unusable documents, as a share, before it stops", least=0, most=1
    )
    seed: int = recipe_key(0, "whole", "of the weights, the masks, the order and who is held out", least=0, most=2**31)
    threads: Any = recipe_key(AUTO, "auto-whole", "CPU threads (auto: one for each core left free)", least=1)
    device: str = recipe_key(AUTO, "text", "cpu, cuda or mps (auto: the best there is)")
    out: str = recipe_key("", "path", "run folder to make (default: runs/NAME-OF-THE-CORPUS)")

    def __post_init__(self) -> None:
        object.__setattr__(self, "corpus", tuple(str(path) for path in self.corpus))
        for item in keys():
            object.__setattr__(self, item.name, read_value(item, getattr(self, item.name)))
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                what = f"{name} is '{getattr(self, name)}'"
                raise PlanProblem(what, where=name, do=f"use one of: {nearest_first(getattr(self, name), valid)}")
        budgets = [name for name in BUDGETS if getattr(self, name) != AUTO]
        if len(budgets) > 1:
            raise PlanProblem(f"{' and '.join(budgets)} are both budgets", where=budgets[0], do="keep one of them")
        if self.model:
            self._refuse_beside_model()

    def _refuse_beside_model(self) -> None:
        """A model that is gone on with brings its own tokenizer, width and weights."""
        defaults = {item.name: item.default for item in keys()}
        for name in ("tokenizer", "vocab_size", "case", "init"):
            if getattr(self, name) != defaults[name]:
                raise PlanProblem(
                    f"{name} cannot be chosen when going on with a model: '{self.model}' has its own",
                    where=name,
                    do=f"leave out --{name.replace('_', '-')}, or leave out --model to start fresh",
                )


def keys() -> tuple[dataclasses.Field[Any], ...]:
    """Give every key but `corpus`, in order; `metadata` holds `kind` and `help`."""
    return tuple(item for item in dataclasses.fields(PretrainRecipe) if "kind" in item.metadata)


def make_pretrain_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> PretrainRecipe:
    """Build a recipe from keys and values.

    Raises:
        PlanProblem: An unknown key (the valid ones are listed, nearest first), or a value of the wrong kind.
    """
    known = {"corpus", *(item.name for item in keys())}
    chosen = {}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        if name not in known:
            raise PlanProblem(f"no key '{given}'", where=where, do=f"the keys are: {nearest_first(name, known)}")
        chosen[name] = value
    return PretrainRecipe(**chosen)


def write_pretrain_recipe(recipe: PretrainRecipe) -> str:
    """Give the recipe as YAML that repeats the run from any folder: its paths are absolute."""
    import yaml

    values = dataclasses.asdict(recipe)
    values["corpus"] = [str(Path(path).absolute()) for path in recipe.corpus]
    values["valid"] = str(Path(recipe.valid).absolute()) if recipe.valid else ""
    if recipe.model and Path(recipe.model).expanduser().is_dir():
        values["model"] = str(Path(recipe.model).expanduser().absolute())
    values["out"] = ""
    text: str = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    return text


def read_pretrain_recipe(path: Path) -> PretrainRecipe:
    """Read what `write_pretrain_recipe` wrote.

    Raises:
        PlanProblem: Not such a file.
    """
    import yaml

    do = "run the first command again, with another --out"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanProblem("the recipe of this run cannot be read", where=str(path), do=do) from error
    if not isinstance(values, dict):
        raise PlanProblem("the recipe of this run is not a mapping of keys", where=str(path), do=do)
    return make_pretrain_recipe(values, where=str(path))
