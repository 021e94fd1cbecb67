"""The tokenizer of a fresh model: byte-level BPE, WordPiece, or characters. Trained by the `tokenizers` library.

Which one, unless the recipe says: for mlm, WordPiece (its ## marks show where words begin), or characters where more
than a third of the sample is Chinese; for clm and seq2seq, byte-level BPE, which gives every text back exactly.
`characters` for clm and seq2seq is byte-level BPE whose merges end at the edges of a character: common characters are
one token, rare ones their bytes, and no text is lost. For mlm, what the vocabulary lacks is [UNK].

Source: Sennrich et al. 2016 (BPE); Wu et al. 2016 (WordPiece); Radford et al. 2019, section 2.2 (bytes).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tunesmith.errors import DataProblem
from tunesmith.training.recipe import AUTO

_CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MOSTLY = 1 / 3  # share of the characters from which a text counts as Chinese
_LARGEST = {128: 8192, 256: 16384, 384: 32768}  # width -> entries; more would be most of the model
_CHARACTERS = 21_128 - 5  # as many as the Chinese BERT has
_LEAST_CHINESE = 8192  # entries; fewer would leave many characters without one
SENTINELS = 100

SPECIALS = {
    "mlm": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "clm": {"pad": "<|pad|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "seq2seq": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
}
"""Role -> token. Those of mlm are BERT's, of clm GPT-2's with a padding token of its own, of seq2seq T5's."""


@dataclass(frozen=True)
class VocabularyPlan:
    """What tokenizer to train; every value is decided."""

    kind: str  # bpe, wordpiece, characters
    objective: str
    size: int  # most entries
    is_lower: bool


def cjk_share(texts: Sequence[str], characters: int = 1_000_000) -> float:
    """Give the share (0..1) of Chinese characters among those that are not white space, in the first texts."""
    found = total = 0
    for text in texts:
        found += len(_CJK.findall(text))
        total += len(text) - sum(map(str.isspace, text))
        if total > characters:
            break
    return found / max(1, total)


def plan_vocabulary(
    texts: Sequence[str], *, objective: str, kind: str, size: Any, case: str, width: int, characters: int
) -> VocabularyPlan:
    """Decide the tokenizer.

    Args:
        texts: The sample it will learn from.
        objective: mlm, clm or seq2seq.
        kind: bpe, wordpiece, characters or auto.
        size: Entries, or auto: four times the root of the corpus's characters, as a power of two, at least 512
            (Chinese: 8192), at most what suits the width. Set by eye: an entry of a vocabulary of 4096 then occurs
            about 60 times in a million characters.
        case: keep, lower or auto. Lower case halves what a small vocabulary spends on words at the start of sentences.
        width: Of the model.
        characters: Of the whole corpus.
    """
    if kind == AUTO and objective == "mlm":
        kind = "characters" if cjk_share(texts) > _MOSTLY else "wordpiece"
    elif kind == AUTO:
        kind = "bpe"
    if size == AUTO and kind == "characters":
        size = _CHARACTERS
    elif size == AUTO:
        wanted = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(characters))))
        least = _LEAST_CHINESE if cjk_share(texts) > _MOSTLY else 512
        size = min(max(least, wanted), _LARGEST.get(width, 32768))
    is_lower = case == "lower" or (case == AUTO and kind == "wordpiece")
    return VocabularyPlan(kind, objective, int(size), is_lower)


def train_tokenizer(texts: Sequence[str], plan: VocabularyPlan) -> Any:
    """Train the tokenizer; the same texts and plan give the same one.

    Returns:
        A fast tokenizer of Transformers, with the special tokens of the objective's family. For mlm a pair becomes
        [CLS] A [SEP] B [SEP] with token types 0 and 1; clm ends nothing; seq2seq ends a text with </s>.

    Raises:
        DataProblem: There is no text to learn from.
    """
    if not any(texts):
        raise DataProblem("no text is left to train a tokenizer on", where="corpus", do="give more text")
    specials = list(dict.fromkeys(SPECIALS[plan.objective].values()))
    if plan.objective == "seq2seq":
        specials += [f"<extra_id_{index}>" for index in range(SENTINELS)]
    if plan.kind == "characters" and plan.objective == "mlm":
        tokenizer = _characters(texts, plan, specials)
    elif plan.kind == "wordpiece":
        tokenizer = _wordpiece(texts, plan, specials)
    else:
        tokenizer = _bytes(texts, plan, specials)
    _end_texts(tokenizer, plan.objective)
    return _as_fast(tokenizer, plan, specials)


def _bert_like(plan: VocabularyPlan, model: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=plan.is_lower, strip_accents=plan.is_lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _pieces(texts: Sequence[str], split: Tokenizer) -> Counter[str]:
    """Count characters as WordPiece writes them: bare at the start of a word, with ## inside."""
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(text)):
            counts[word[0]] += 1
            counts.update(f"##{character}" for character in word[1:])
    return counts


def _ranked(counts: Counter[str]) -> list[str]:
    """Give the entries that occur more than once, the most frequent first; equals in the order of their characters."""
    return sorted((entry for entry, count in counts.items() if count > 1), key=lambda entry: (-counts[entry], entry))


def _wordpiece(texts: Sequence[str], plan: VocabularyPlan, specials: list[str]) -> Tokenizer:
    """Train WordPiece.

    The library numbers inner characters (##a) in the order of a hash table, which differs from process to process and
    decides ties between merges. They are given to it as if they were special tokens, in a fixed order, and the
    entries are then put into a fresh tokenizer: so the same text gives the same vocabulary.
    """
    unknown = models.WordPiece({specials[1]: 0}, unk_token=specials[1])
    pieces = _ranked(_pieces(texts, _bert_like(plan, unknown)))[: 2 * plan.size // 3]
    alphabet = sorted({piece[-1] for piece in pieces})
    trained = _bert_like(plan, models.WordPiece(unk_token=specials[1]))
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(plan.size, len(alphabet) + len(pieces)),
        min_frequency=2,
        special_tokens=[*specials, *sorted(piece for piece in pieces if piece.startswith("##"))],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return _bert_like(plan, models.WordPiece(trained.get_vocab(with_added_tokens=False), unk_token=specials[1]))


def _characters(texts: Sequence[str], plan: VocabularyPlan, specials: list[str]) -> Tokenizer:
    """Make a WordPiece whose entries are single characters: Chinese ones by themselves, others with ## inside words.

    A character that occurs once is left out: nothing can be learnt of it, and [UNK] needs examples too.
    """
    unknown = models.WordPiece({specials[1]: 0}, unk_token=specials[1])
    entries = [*specials, *_ranked(_pieces(texts, _bert_like(plan, unknown)))[: plan.size - len(specials)]]
    model = models.WordPiece(
        {entry: index for index, entry in enumerate(entries)}, unk_token=specials[1], max_input_chars_per_word=1000
    )
    return _bert_like(plan, model)


def _bytes(texts: Sequence[str], plan: VocabularyPlan, specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if plan.is_lower:
        tokenizer.normalizer = normalizers.Lowercase()
    if plan.kind == "characters":
        each = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [each, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _end_texts(tokenizer: Tokenizer, objective: str) -> None:
    """Say which special tokens a text gets when a task encodes it."""
    names = SPECIALS[objective]
    if objective == "mlm":
        ends = [(names[role], tokenizer.token_to_id(names[role])) for role in ("cls", "sep")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    elif objective == "seq2seq":
        ends = [(names["eos"], tokenizer.token_to_id(names["eos"]))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=ends
        )


def _as_fast(tokenizer: Tokenizer, plan: VocabularyPlan, specials: list[str]) -> Any:
    roles = {f"{role}_token": token for role, token in SPECIALS[plan.objective].items()}
    more: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    if plan.objective == "mlm":
        more["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if plan.objective == "seq2seq":
        more["additional_special_tokens"] = [token for token in specials if token.startswith("<extra_id_")]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles, **more)
