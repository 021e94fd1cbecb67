"""Small fresh models that write, for tests of the engine: a character tokenizer that knows any text given to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors


def make_tokenizer(texts: Sequence[str], *, longest: int = 128) -> Any:
    """Give a tokenizer with one token for each character of the texts; spaces are tokens too."""
    characters = sorted({character for text in texts for character in text} | set("=>\nTL;DR:摘要："))
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", "<end>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def make_causal(folder: Path, texts: Sequence[str], *, width: int = 64, longest: int = 128, seed: int = 0) -> Path:
    """Save a fresh two-layer GPT-2."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts, longest=longest)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=2,
        n_head=4,
        n_positions=longest,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _saved(transformers.GPT2LMHeadModel(config), tokenizer, folder)


def make_bart(folder: Path, texts: Sequence[str], *, width: int = 64, longest: int = 128, seed: int = 0) -> Path:
    """Save a fresh BART with one block on either side."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts, longest=longest)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_position_embeddings=longest,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return _saved(transformers.BartForConditionalGeneration(config), tokenizer, folder)


def make_t5(folder: Path, texts: Sequence[str], *, width: int = 64, longest: int = 128, seed: int = 0) -> Path:
    """Save a fresh T5 with one block on either side."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(texts, longest=longest)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    return _saved(transformers.T5ForConditionalGeneration(config), tokenizer, folder)


def make_other(folder: Path, texts: Sequence[str], kind: str) -> Path:
    """Save a fresh model of another family: llama, bloom, marian or mbart."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(texts)
    ends = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    blocks = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    widths = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128}
    both = {**ends, **blocks, **widths, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    if kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.LlamaConfig(**ends, **sizes, num_key_value_heads=2, max_position_embeddings=128)
        return _saved(transformers.LlamaForCausalLM(config), tokenizer, folder)
    if kind == "bloom":
        config = transformers.BloomConfig(**ends, hidden_size=32, n_layer=2, n_head=4)
        return _saved(transformers.BloomForCausalLM(config), tokenizer, folder)
    if kind == "marian":
        return _saved(transformers.MarianMTModel(transformers.MarianConfig(**both)), tokenizer, folder)
    config = transformers.MBartConfig(**both)
    return _saved(transformers.MBartForConditionalGeneration(config), tokenizer, folder)


def learn_by_heart(task: Any, model: Any, examples: Sequence[Any], tokenizer: Any, *, steps: int) -> None:
    """Train on all the examples at once, without dropout, until they are known."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = task.batch(examples, tokenizer)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        (task.loss(model, batch) / task.weight(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
