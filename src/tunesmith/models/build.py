"""Build the torch module and the tokenizer of a base model that `find` has cleared."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from tunesmith.errors import ModelProblem


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Transformers from reporting the fresh head and the bars of loading: both are expected here."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


_ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
_DROPOUTS = (
    *("hidden_dropout_prob", "classifier_dropout", "dropout", "dropout_rate"),
    *("seq_classif_dropout", "activation_dropout", "pooler_dropout", "embd_pdrop", "resid_pdrop"),
)
_FAULTS: tuple[type[Exception], ...] = (
    # What a folder that does not fit makes the libraries raise.
    *(ValueError, OSError, RuntimeError, KeyError, ImportError, TypeError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)


def build_model(
    folder: Path,
    model_class: str,
    *,
    seed: int = 0,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    **entries: Any,
) -> nn.Module:
    """Load weights into `model_class`; what the folder does not hold (the head) is drawn from `seed`.

    Args:
        folder: A folder that `find_base` has cleared.
        model_class: Name of a Transformers auto class, e.g. "AutoModelForSequenceClassification".
        seed: Of the fresh parameters.
        dropout: Replaces every dropout of the configuration (0..1) but that of attention; None keeps the model's own.
        attention_dropout: Replaces the dropout of attention weights; None keeps the model's own.
        entries: Override entries of the model's configuration, e.g. `num_labels`, `id2label`.

    Returns:
        The module, in evaluation mode, in float32, on the CPU. Its attribute `drawn` names the parameters that the
        folder did not hold.

    Raises:
        ModelProblem: Transformers cannot build this class from this folder.
    """
    torch.manual_seed(seed)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, **entries
            )
            for names, value in ((_DROPOUTS, dropout), (_ATTENTION_DROPOUTS, attention_dropout)):
                for name in names if value is not None else ():
                    if hasattr(config, name):
                        setattr(config, name, value)
            model, report = getattr(transformers, model_class).from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # a head trained for other labels is replaced by a fresh one
                dtype=torch.float32,
                config=config,
            )
    except _FAULTS as error:
        raise _unusable(folder, model_class, error) from error
    if _is_sentence_encoder(folder) or any("pooler" in name for name in report["missing_keys"]):
        _start_pooler(model)
    fitted: nn.Module = model.eval()
    fitted.drawn = drawn_names(report)
    return fitted


def drawn_names(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the names of the parameters that the folder did not hold, or held for other labels: they were drawn."""
    mismatched = (entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"])
    return tuple(sorted({*report["missing_keys"], *mismatched}))


def _is_sentence_encoder(folder: Path) -> bool:
    """Whether this is a sentence-transformers model that averages tokens, so that its pooler was never trained."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return False
    try:
        pooling = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelProblem("the pooling configuration is not JSON", where=str(path), do="fetch it again") from error
    return bool(pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode") == "mean"


def _start_pooler(model: nn.Module) -> None:
    """Let an untrained pooler start by handing the first token's state on, instead of mixing it at random.

    The pooler of all-MiniLM-L6-v2 is a leftover that its sentence training never used. Starting it as the identity
    gave 4.9 points on BANKING77 with 2,000 rows (docs/notebook.md).
    """
    dense = getattr(getattr(model.base_model, "pooler", None), "dense", None)
    if isinstance(dense, nn.Linear) and dense.in_features == dense.out_features:
        nn.init.eye_(dense.weight)
        nn.init.zeros_(dense.bias)


def read_config(folder: Path) -> Any:
    """Give the model's configuration.

    Raises:
        ModelProblem: Transformers does not know this kind of model.
    """
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _FAULTS as error:
        raise _unusable(folder, "a model of the library", error) from error


def _unusable(folder: Path, model_class: str, error: Exception) -> ModelProblem:
    reason = str(error).strip().split("\n")[0][:300]
    return ModelProblem(
        f"this base model cannot be used here: {reason}",
        where=str(folder),
        do="choose a text model that transformers can load as "
        f"{model_class}; `tunesmith doctor` checks the installation",
    )


def build_tokenizer(folder: Path, max_length: int | None = None) -> Any:
    """Load the tokenizer; `max_length` becomes its own limit, so that plain Transformers cuts texts in the same place.

    Raises:
        ModelProblem: The folder has no tokenizer that Transformers can load.
    """
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, use_fast=True
            )
    except _FAULTS as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise ModelProblem(
            f"the tokenizer of this base model cannot be loaded: {reason}",
            where=str(folder),
            do="the folder needs tokenizer.json, or vocab files and what the tokenizer class requires",
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one where it finds no files
        raise ModelProblem(
            "the tokenizer of this base model has no vocabulary",
            where=str(folder),
            do="the folder needs tokenizer.json, or vocab files and what the tokenizer class requires",
        )
    if tokenizer.pad_token is None:  # causal models have none; the end token fills what the mask hides
        tokenizer.pad_token = tokenizer.eos_token
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


_POSITIONS_AFTER_PADDING = {
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"),
    *("mpnet", "longformer", "data2vec-text", "ibert", "luke"),
}


def longest_input(model_config: Any, tokenizer: Any) -> int:
    """Give how many tokens the model can take (512 when neither configuration nor tokenizer says)."""
    limits = [getattr(model_config, "max_position_embeddings", None), tokenizer.model_max_length]
    if getattr(model_config, "model_type", "") in _POSITIONS_AFTER_PADDING and limits[0]:
        limits[0] -= 2  # these families start counting positions after the padding index
    known = [int(limit) for limit in limits if limit and 0 < limit < 1_000_000]
    return min(known) if known else 512
