"""Extractive answers: exact match and F1 by the official rules of SQuAD (English) and CMRC 2018 (Chinese). numpy only.

Each row is scored by the rule of its language. N is rows. An empty prediction means "there is no answer".

Source: evaluate-v2.0.py of SQuAD (Rajpurkar et al. 2018), which on rows with answers equals evaluate-v1.1.py but for a
reference that consists of nothing but punctuation and articles; cmrc2018_evaluate.py, version 5 (Cui et al. 2019).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tunesmith.metrics.shares import Floats, divide, f1_of_counts

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA_AND_HANGUL = "\u3040-\u30ff\uac00-\ud7af"
_PIECE = re.compile(rf"([{_HAN}])|[{_KANA_AND_HANGUL}]|(?:(?![{_HAN}{_KANA_AND_HANGUL}])[^\W\d_])+")

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)

# What CMRC 2018 takes away. Its list lacks the ASCII comma and full stop; its "……" is two characters and never equals
# one, so that "…" stays.
_CMRC_MARKS = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
_NO_CMRC_MARKS = str.maketrans("", "", _CMRC_MARKS)
# The script gives what stands between Chinese characters to nltk's word_tokenize. This does the same for all but rare
# heaps of marks, without nltk (14 MB, and a model file for sentence ends): 3.5, 1,000, U.S and o'clock stay whole; 's,
# n't and other marks come off; quotation marks that open differ from those that close.
_CMRC_HAN = "\u4e00-\u9fa5"
_IN_WORD = rf"""[^\s{_CMRC_HAN}!"#$%&'(),.;<>?@\[\]{{}}‘“”—`]"""
_COMES_OFF = rf"(?:s|m|d|ll|re|ve)(?!{_IN_WORD})"
_NOT = rf"n't(?!{_IN_WORD})"
_CMRC_PIECE = re.compile(
    rf"[{_CMRC_HAN}]|{_NOT}|'{_COMES_OFF}|``|''|\.\.\."
    rf"|(?:(?!{_NOT}){_IN_WORD}|\.(?={_IN_WORD})|,(?=\d)|'(?!{_COMES_OFF})(?={_IN_WORD}))+|\S"
)
_OPENING_QUOTE = re.compile(rf'(?<![^\s{_CMRC_HAN}(\[{{<])"')


def is_chinese(text: str) -> bool:
    """Tell whether a text is mostly Chinese: more Chinese characters than words of other scripts.

    Kana and hangul count as one word each, so that Japanese is not taken for Chinese; digits and marks do not count.
    """
    pieces = Counter(bool(match[1]) for match in _PIECE.finditer(text))
    return pieces[True] > pieces[False]


def normalise_english(text: str) -> str:
    """Lower the text and take away ASCII punctuation, the articles a, an, the, and needless space, as SQuAD does."""
    bare = text.lower().translate(_NO_ASCII_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def normalise_chinese(text: str) -> str:
    """Lower the text and take away the punctuation that CMRC 2018 takes away before it compares whole answers."""
    return text.lower().strip().translate(_NO_CMRC_MARKS)


def split_mixed(text: str) -> list[str]:
    """Split a text without its punctuation into Chinese characters and whole words of other scripts, as CMRC 2018."""
    quoted = _OPENING_QUOTE.sub("``", normalise_chinese(text)).replace('"', "''")
    return _CMRC_PIECE.findall(quoted)


def _longest_shared_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Give the length of the longest run of tokens that stands in both without a gap."""
    longest = 0
    ends_here = [0] * (len(second) + 1)
    for token in first:
        ends_here = [0, *(ends_here[place] + 1 if token == other else 0 for place, other in enumerate(second))]
        longest = max(longest, *ends_here)
    return longest


def score_english(references: Sequence[str], prediction: str) -> tuple[float, float]:
    """Give exact match (0 or 1) and F1 (0..1) of one answer by SQuAD 2.0, each the best over the references.

    References that normalise to nothing count only when there is no other: then nothing is the right answer.
    """
    wanted = [text for text in map(normalise_english, references) if text] or [""]
    answer = normalise_english(prediction)
    words = answer.split()
    if not words or wanted == [""]:
        agree = float(answer in wanted)
        return agree, agree
    shares = []
    for text in wanted:
        true = text.split()
        shares.append(f1_of_counts((Counter(true) & Counter(words)).total(), len(words), len(true)))
    return float(answer in wanted), max(shares)


def score_chinese(references: Sequence[str], prediction: str) -> tuple[float, float]:
    """Give exact match (0 or 1) and F1 (0..1) of one answer by CMRC 2018, each the best over the references.

    F1 counts the longest run of shared tokens without a gap, not a bag of words. Where no reference says anything, the
    right answer is nothing, as in SQuAD 2.0; CMRC 2018 has no such rows.
    """
    answer = normalise_chinese(prediction)
    if not any(text.strip() for text in references):
        agree = float(not answer)
        return agree, agree
    pieces = split_mixed(prediction)
    shares = []
    for text in references:
        true = split_mixed(text)
        shares.append(f1_of_counts(_longest_shared_run(true, pieces), len(pieces), len(true)))
    return float(answer in map(normalise_chinese, references)), max(shares)


def statistics(
    references: Sequence[Sequence[str]], predictions: Sequence[str], questions: Sequence[str] | None = None
) -> Floats:
    """Score each row by the rule of its language.

    Args:
        references: Right answers of each row (N); none, or only blank ones, where the text holds no answer.
        predictions: Answer of each row (N); blank for "no answer".
        questions: Question of each row (N). With it the language of a row is that of question and references together,
            so that an English name as the answer to a Chinese question is scored by the Chinese rule.

    Returns:
        Sums (N, 5): rows with an answer, exact match and F1 on these; rows without an answer, those found to be so.
    """
    asked = questions if questions is not None else [""] * len(predictions)
    sums_N5 = np.zeros((len(predictions), 5))
    for sums, right, prediction, question in zip(sums_N5, references, predictions, asked, strict=True):
        score = score_chinese if is_chinese(" ".join([question, *right])) else score_english
        exact, f1 = score(right, prediction)
        if any(text.strip() for text in right):
            sums[:3] = 1, exact, f1
        else:
            sums[3:] = 1, exact
    return sums_N5


def values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give the scores from summed statistics (..., 5).

    Returns:
        `exact_match` and `f1` over all rows; where any of the sums has rows without an answer, also `has_answer_f1`
        and `no_answer_accuracy`. Each (...), 0..1; 0 in a resample that holds no such row.
    """
    with_answer, exact, f1, without_answer, right = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    rows = with_answer + without_answer
    scores = {"exact_match": divide(exact + right, rows), "f1": divide(f1 + right, rows)}
    if np.any(without_answer > 0):
        scores["has_answer_f1"] = divide(f1, with_answer)
        scores["no_answer_accuracy"] = divide(right, without_answer)
    return scores
