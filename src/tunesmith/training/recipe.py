"""What a person may ask of a training run: every key with its default, its meaning and what it may be.

The command line's flags, `--set`, the recipe file and the commented one of `tunesmith init` are made from `Recipe`.
No torch here: `tunesmith train --help` reads this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.augment.entries import with_paths
from tunesmith.data.columns import read_roles
from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.training.recipe_values import AUTO, read_value, recipe_key

__all__ = [
    "ALIASES",
    "AUTO",
    "Recipe",
    "canonical",
    "keys",
    "make_recipe",
    "read_recipe",
    "read_sets",
    "write_recipe",
]

_PATHS = ("data", "valid", "test", "parent", "teacher", "unlabelled", "out")
_LARGEST_RECIPE_BYTES = 1_000_000

ALIASES = {
    "train": "data",
    "train_file": "data",
    "validation": "valid",
    "validation_file": "valid",
    "test_file": "test",
    "model_name_or_path": "model",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "output_dir": "out",
    "metric_for_best_model": "metric",
    "early_stopping_patience": "patience",
    "report_to": "track",
    "text_column": "text",
    "label_column": "label",
}


@dataclass(frozen=True)
class Recipe:
    """Everything a person may decide about a run. `auto` is resolved in the plan, which is printed first."""

    data: str = recipe_key("", "path", "labelled rows to learn from: a file, or a folder saved by the datasets library")
    valid: str = recipe_key("", "path", "rows to choose the best weights by (default: a share of the data)")
    test: str = recipe_key("", "path", "rows to measure the gain on (default: a share of the data)")
    task: str = recipe_key(AUTO, "text", "what to learn (auto: told from the columns); `tunesmith tasks` lists them")
    columns: str = recipe_key(
        "", "text", "which column plays which role, e.g. question=q,context=c (default: inferred)"
    )
    text: str = recipe_key("", "text", "column that holds the text (default: inferred)")
    label: str = recipe_key("", "text", "column that holds the label (default: inferred)")
    model: str = recipe_key("minilm", "text", "base model: minilm (embedded), a local folder, or a hub id")
    method: str = recipe_key(
        "full", "text", "what may change, e.g. full or lora; auto: by rows and base; `tunesmith methods` lists them"
    )
    top_layers: int = recipe_key(2, "whole", "blocks that method top-layers frees; 0 is a linear probe", least=0)
    lora_rank: int = recipe_key(8, "whole", "rank of the companions of lora and dora; of adalora's on average", least=1)
    lora_alpha: float = recipe_key(16.0, "number", "the companions count this many times over their rank", least=0.001)
    lora_dropout: float = recipe_key(0.0, "number", "dropout before the companions", least=0.0, most=0.9)
    adapter_size: int = recipe_key(64, "whole", "width of the bottleneck of method adapter", least=1)
    adapter_places: str = recipe_key(
        "both", "text", "adapters behind both attention and feed-forward, or feed-forward only"
    )
    adapted_layers: int = recipe_key(
        0, "whole", "blocks that lora, adalora, dora, adapter, ia3 and bitfit reach, from the top; 0 for all", least=0
    )
    pooling: str = recipe_key(
        AUTO, "text", "what contrastive compares: the mean of the states, or the first token (auto: mean if it can)"
    )
    contrast_temperature: float = recipe_key(
        0.05, "number", "how sharply contrastive tells likes from others: lower, the nearest count more", least=0.005
    )
    contrast_layers: int = recipe_key(0, "whole", "blocks that contrastive tunes, from the top; 0 for all", least=0)
    meta: str = recipe_key("prototypical", "text", "how method meta learns to learn: prototypical or reptile")
    episodes: int = recipe_key(200, "whole", "episodes that method meta learns from", least=1)
    episode_labels: Any = recipe_key(
        AUTO, "auto-whole", "labels of an episode of method meta (auto: 5, or a third of those there are)", least=2
    )
    episode_shots: int = recipe_key(5, "whole", "examples of each label of an episode", least=1)
    episode_asked: int = recipe_key(10, "whole", "most further rows of each label that an episode asks for", least=1)
    measured_episodes: int = recipe_key(200, "whole", "episodes of unseen labels that meta is measured on", least=2)
    inner_steps: int = recipe_key(5, "whole", "steps of gradient descent inside an episode of reptile", least=1)
    inner_learning_rate: float = recipe_key(0.02, "number", "rate of these steps", least=1e-6, most=10.0)
    prompt_length: int = recipe_key(20, "whole", "virtual tokens of methods prompt and prefix", least=1)
    asked_by: str = recipe_key(
        AUTO, "text", "how zero-shot asks: cloze, entailment, embedding or likelihood (auto: what the base can do)"
    )
    template: str = recipe_key(
        "",
        "text",
        "how pet, few-shot and zero-shot put it, e.g. '{text} It was {label}.'; several parted by || (default: known)",
    )
    label_words: str = recipe_key(
        AUTO,
        "table",
        "words that labels go by there: label=word|word,... ; names (their own); search (pet: in the training rows)",
    )
    correct_prior: bool = recipe_key(
        True, "yes-no", "zero-shot and few-shot: take off how likely each label is without a text"
    )
    shots: int = recipe_key(
        16, "whole", "most examples in a prompt of few-shot; fewer where the window is full", least=1
    )
    examples_by: str = recipe_key(
        "tfidf", "text", "how few-shot finds examples like the text: tfidf, states (the base model's own) or chance"
    )
    pet_tunes: str = recipe_key("full", "text", "what pet may change: full, top-layers or bitfit")
    base_bits: int = recipe_key(
        0,
        "whole",
        "keep what is frozen in 4 or 8 bits while training, on a GPU with bitsandbytes; 0: as it is",
        least=0,
    )
    merge: str = recipe_key(
        AUTO, "text", "yes: keep whole weights; no: only what was learnt (auto: yes where it can be)"
    )
    epochs: Any = recipe_key(AUTO, "auto-number", "most passes over the training rows", least=0.01, most=10_000)
    max_steps: Any = recipe_key(AUTO, "auto-whole", "most optimiser steps, whatever the epochs (auto: any)", least=1)
    batch_size: Any = recipe_key(AUTO, "auto-whole", "rows behind one optimiser step", least=1)
    gradient_accumulation_steps: int = recipe_key(1, "whole", "multiplies batch_size, at no cost in memory", least=1)
    batch_tokens: Any = recipe_key(
        AUTO, "auto-whole", "most tokens in the model at once, padding included (auto: 2,048 on a CPU)", least=1
    )
    learning_rate: Any = recipe_key(AUTO, "auto-number", "peak learning rate", least=0.0, most=10.0)
    head_learning_rate_factor: Any = recipe_key(
        AUTO,
        "auto-number",
        "the fresh head learns at this many times the rate (auto: the method's)",
        least=0.0,
        most=1000.0,
    )
    max_length: Any = recipe_key(AUTO, "auto-whole", "tokens after which a text is cut", least=4)
    encoder: str = recipe_key(
        "cross", "text", "text pairs: cross (both texts at once) or bi (each by itself, compared after)"
    )
    stride: int = recipe_key(128, "whole", "tokens that two windows of a long text share", least=0)
    max_new_tokens: Any = recipe_key(AUTO, "auto-whole", "most tokens that an answer in words may have", least=1)
    num_beams: int = recipe_key(
        1, "whole", "beams of the search for an answer; 1 takes the likeliest token each time", least=1
    )
    do_sample: bool = recipe_key(False, "yes-no", "draw the answer's tokens by chance instead of taking the likeliest")
    temperature: float = recipe_key(
        1.0, "number", "of drawn tokens: below 1 surer, above 1 wilder", least=0.01, most=100.0
    )
    top_k: int = recipe_key(50, "whole", "draw among this many likeliest tokens; 0 for all", least=0)
    top_p: float = recipe_key(
        1.0, "number", "draw among the likeliest tokens that make up this share", least=0.01, most=1.0
    )
    repetition_penalty: float = recipe_key(1.0, "number", "above 1: what was said is said again less often", least=0.1)
    stop: str = recipe_key("", "text", "an answer ends before this text; several are parted by |")
    speculate: int = recipe_key(
        0,
        "whole",
        "guess so many tokens ahead from what stands in the text, and check them at once; the same answers, faster "
        "where answers repeat what was read, one text at a time",
        least=0,
        most=100,
    )
    weights: str = recipe_key(
        "float", "text", "of a model that writes: float, or int8 (8 bits: faster on a CPU, may change answers)"
    )
    draw: int = recipe_key(0, "whole", "where tokens are drawn, another number draws other answers", least=0)
    weight_decay: float = recipe_key(
        0.01, "number", "decay of matrices; biases and norms never decay", least=0.0, most=1.0
    )
    warmup_ratio: float = recipe_key(0.1, "number", "share of the steps over which the rate rises", least=0.0, most=1.0)
    max_grad_norm: float = recipe_key(1.0, "number", "gradients are clipped to this norm", least=1e-9)
    optimizer: str = recipe_key("adamw", "text", "adamw, adafactor, sgd (with momentum) or lion")
    momentum: float = recipe_key(0.9, "number", "of optimizer sgd", least=0.0, most=0.999)
    schedule: str = recipe_key(
        "linear", "text", "how the rate goes on after warm-up: linear, cosine, constant or inverse-sqrt"
    )
    layer_decay: float = recipe_key(
        1.0, "number", "each block learns at this share of the rate of the one above it", least=0.1, most=1.0
    )
    unfreeze: str = recipe_key(
        "none",
        "text",
        "free one more block from the top: epoch (each) or even (all by half of the steps); none: at once",
    )
    label_smoothing: float = recipe_key(
        0.0, "number", "share of each target that is spread over all labels", least=0.0, most=0.9
    )
    class_weights: str = recipe_key(
        "none", "table", "balanced (rare labels count more), or what each counts, e.g. spam=3,ham=1 (others: 1)"
    )
    focal_gamma: float = recipe_key(
        0.0, "number", "focal loss: above 0, what is answered well counts less; 2 is usual", least=0.0, most=10.0
    )
    r_drop: float = recipe_key(
        0.0, "number", "weight of how far two passes with other dropout differ; 1 is usual", least=0.0, most=50.0
    )
    parent: str = recipe_key("", "path", "finished run that this one updates: its labels stay (see `tunesmith update`)")
    distil: float = recipe_key(
        0.0, "number", "of an update: weight of answering the parent's labels as it does", least=0.0, most=100.0
    )
    distil_temperature: float = recipe_key(
        2.0, "number", "softens both answers of distil: above 1, what the parent nearly said counts more", least=0.1
    )
    ewc: float = recipe_key(
        0.0, "number", "of an update: weight of staying where old answers depend on the weights", least=0.0
    )
    teacher: str = recipe_key("", "path", "finished run whose answers are learnt from, too (distillation)")
    teacher_weight: float = recipe_key(
        0.8, "number", "share of the teacher's answers in the loss; the rest is the labels'", least=0.0, most=1.0
    )
    teacher_temperature: float = recipe_key(
        2.0, "number", "softens both answers: above 1, what the teacher thinks of other labels counts more", least=0.1
    )
    teacher_states: float = recipe_key(
        1.0, "number", "weight of how far the states of blocks are from the teacher's; 0: answers alone", least=0.0
    )
    unlabelled: str = recipe_key(
        "",
        "path",
        "rows without labels: learnt from what the teacher says of them; without a teacher, from what the run itself "
        "is sure of (self-training)",
    )
    pseudo_confidence: Any = recipe_key(
        AUTO,
        "auto-number",
        "self-training: least confidence of an answer that is learnt (auto: where the validation rows reach "
        "pseudo_precision)",
        least=0.0,
        most=1.0,
    )
    pseudo_precision: float = recipe_key(
        0.9, "number", "self-training: share of right answers that is wanted among those learnt", least=0.0, most=1.0
    )
    pseudo_weight: float = recipe_key(
        0.5, "number", "self-training: how much such a row counts beside a labelled one", least=0.01, most=1.0
    )
    pseudo_most: float = recipe_key(
        10.0, "number", "self-training: most such rows of a label for each labelled one", least=0.01
    )
    pseudo_rounds: int = recipe_key(
        1, "whole", "self-training: how often it is done, each time from better answers", least=1, most=20
    )
    augment: str = recipe_key(
        "", "entries", "copies of training rows, e.g. synonyms:table=FILE,delete,swap:copies=2; back_translate, mixup"
    )
    adversarial: str = recipe_key(
        "none", "text", "learn from embeddings moved to where the loss is worse: fgm, pgd or freelb"
    )
    adversarial_epsilon: float = recipe_key(
        0.01, "number", "how far they are moved, as a share of the length of a text's embeddings", least=1e-6, most=10.0
    )
    adversarial_steps: int = recipe_key(3, "whole", "steps of pgd and freelb; each costs a pass", least=1, most=50)
    averaging: str = recipe_key(
        "none", "text", "answer with averaged weights: ema (moving average) or swa (mean over the last steps)"
    )
    ema_decay: float = recipe_key(
        0.999, "number", "memory of averaging ema; less over the first steps", least=0.0, most=0.999999
    )
    swa_share: float = recipe_key(
        0.25, "number", "last share of the steps that averaging swa is over", least=0.0001, most=1.0
    )
    dropout: Any = recipe_key(
        AUTO, "auto-number", "dropout while training (auto: the base model's own)", least=0.0, most=0.9
    )
    attention_dropout: Any = recipe_key(
        AUTO, "auto-number", "dropout of attention weights (auto: as dropout)", least=0.0, most=0.9
    )
    metric: str = recipe_key(AUTO, "text", "metric that decides (auto: the task's own), e.g. accuracy, macro_f1")
    patience: int = recipe_key(3, "whole", "evaluations without improvement before training stops", least=1)
    budget: str = recipe_key(
        "", "text", "time for the whole run, e.g. 60s, 5m or 1h30m: a usable model soon, then better ones"
    )
    prefix_cache: str = recipe_key(
        AUTO, "text", "run frozen lowest blocks once and keep their states: yes or no (auto: where it pays)"
    )
    cache_mib: int = recipe_key(4096, "whole", "most MiB of disk for the states of frozen blocks", least=1)
    eval_steps: Any = recipe_key(AUTO, "auto-whole", "steps between evaluations (auto: an epoch, or 250)", least=1)
    checkpoint_seconds: float = recipe_key(120.0, "number", "most seconds between checkpoints", least=0.0)
    mixed_precision: str = recipe_key(AUTO, "text", "no, bf16 or fp16 (auto: bf16 where the machine has units for it)")
    abstain_at: str = recipe_key("", "text", "e.g. precision=0.95: answer only as surely as that, else 'do not know'")
    valid_share: Any = recipe_key(
        AUTO, "auto-number", "share of the data for validation (auto: 0.1, at most 5,000 rows)", least=0.0, most=0.5
    )
    test_share: Any = recipe_key(
        AUTO, "auto-number", "share of the data for the test (auto: 0.2, at most 10,000 rows)", least=0.01, most=0.8
    )
    baseline_rows: int = recipe_key(
        50_000, "whole", "most training rows that the naive baselines learn from, drawn by the seed", least=10
    )
    max_rejected: float = recipe_key(
        0.05, "number", "most unusable rows, as a share, before the run stops", least=0, most=1
    )
    seed: int = recipe_key(
        0, "whole", "of the split, the fresh head, the order of rows and dropout", least=0, most=2**31
    )
    threads: Any = recipe_key(
        AUTO, "auto-whole", "CPU threads (auto: one for each core left free, shared out among --processes)", least=1
    )
    sharding: str = recipe_key(
        "none", "text", "fsdp: each of several processes keeps only a share of the model (for models that do not fit)"
    )
    device: str = recipe_key(AUTO, "text", "cpu, cuda or mps (auto: the best there is)")
    track: str = recipe_key("", "text", "send events to a tracker too: tensorboard, mlflow or wandb")
    out: str = recipe_key("", "path", "run folder to make (default: runs/NAME-OF-THE-DATA)")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, read_value(item, getattr(self, item.name)))

    @property
    def roles(self) -> dict[str, str]:
        """Role -> column, as `columns`, `text` and `label` say."""
        return read_roles(self.columns, text=self.text, label=self.label)

    @property
    def precision_wanted(self) -> float | None:
        """The precision that `abstain_at` asks for, or None."""
        if not self.abstain_at:
            return None
        name, _, value = self.abstain_at.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if name.strip() != "precision" or not 0 < share < 1:
            raise PlanProblem(
                f"abstain_at is '{self.abstain_at}'", where="abstain_at", do="write precision=0.95 (a share below 1)"
            )
        return share


def keys() -> tuple[dataclasses.Field[Any], ...]:
    """Give every recipe key in order; `metadata` holds `kind` and `help`."""
    return dataclasses.fields(Recipe)


def make_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Build a recipe from keys and values; Transformers' names are accepted for ours.

    Raises:
        PlanProblem: An unknown key (the valid ones are listed, nearest first), a key given under two names, or a value
            of the wrong kind.
    """
    return Recipe(**canonical(values, where=where))


def canonical(values: Mapping[str, Any], *, where: str = "recipe") -> dict[str, Any]:
    """Give the same keys under our own names. What overrides what is for the caller: merge after this, not before.

    Raises:
        PlanProblem: An unknown key, or one key under two names.
    """
    known = {item.name for item in keys()}
    chosen: dict[str, Any] = {}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in known:
            raise PlanProblem(
                f"no recipe key '{given}'", where=where, do=f"the keys are: {nearest_first(str(given), known)}"
            )
        if name in chosen:
            raise PlanProblem(f"'{given}' and another key both set {name}", where=where, do="keep one of them")
        chosen[name] = value
    return chosen


def read_sets(items: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE items as keys of their own types.

    Raises:
        PlanProblem: No such key, no value, or one of the wrong kind.
    """
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise PlanProblem(f"--set {item} has no value", where="command line", do="write --set KEY=VALUE")
        values[name.strip()] = value.strip()
    known = canonical(values, where="command line")
    recipe = Recipe(**known)
    return {name: getattr(recipe, name) for name in known}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the keys of a recipe file (YAML), under our own names; relative paths in it are relative to the file.

    Raises:
        PlanProblem: Not a file, too large, not YAML, or not a mapping of keys to plain values.
    """
    import yaml

    where = str(path)
    do = "start from the commented one that `tunesmith init FOLDER` writes"
    if not path.is_file():
        raise PlanProblem("there is no such recipe", where=where, do=do)
    if path.stat().st_size > _LARGEST_RECIPE_BYTES:
        raise PlanProblem("this file is too large for a recipe", where=where, do=do)
    try:
        content = _load_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PlanProblem(f"this recipe is not YAML: {reason}", where=where, do=do) from error
    if not isinstance(content, dict):
        raise PlanProblem("a recipe is a mapping of keys to values", where=where, do=do)
    content = canonical(content, where=where)
    for name, value in content.items():
        if isinstance(value, dict) and name == "abstain_at":  # abstain_at: {precision: 0.95} reads well in YAML
            content[name] = ",".join(f"{key}={item}" for key, item in value.items())
        elif name == "augment":
            content[name] = with_paths(value, lambda given: str(path.parent / Path(given).expanduser()))
        elif name in _PATHS and isinstance(value, str) and value:
            content[name] = str(path.parent / Path(value).expanduser())
        elif name == "model" and (path.parent / str(value)).is_dir():
            content[name] = str(path.parent / str(value))  # a folder beside the recipe; else a name or hub id
    return content


def _load_yaml(text: str) -> Any:
    """Parse YAML without aliases: a few lines of them can stand for gigabytes, and a recipe needs none."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it repeats parts of itself by aliases (*name)")
            return super().compose_node(parent, index)

    return yaml.load(text, Loader)


def write_recipe(recipe: Recipe, *, comments: bool = False) -> str:
    """Give the recipe as YAML text; with `comments`, every key has its meaning above it."""
    import yaml

    lines = []
    for item in keys():
        if comments:
            lines.append(f"# {item.metadata['help']}")
        value = {item.name: getattr(recipe, item.name)}
        lines.append(yaml.safe_dump(value, allow_unicode=True, default_flow_style=False).rstrip("\n"))
        if comments:
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
