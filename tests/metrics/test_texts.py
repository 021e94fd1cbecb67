"""Scores of generated text against sacrebleu, rouge-score and plain references."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.metrics import rouge, texts

ENGLISH = ["the", "cat", "Cat.", "sat", "on", "mat,", "a", "3.5", "don't", "!", "naïve"]
CHINESE = [*"今天天气很好我们去北京", "，", "。", "NBA", "2008"]


def rows(words, join):
    text = st.lists(st.sampled_from(words), max_size=10).map(join)
    return st.lists(st.tuples(text, st.lists(text, min_size=1, max_size=3)), min_size=1, max_size=6)


ENGLISH_ROWS = rows(ENGLISH, " ".join)
CHINESE_ROWS = rows(CHINESE, "".join)


def columns(references):
    most = max(map(len, references))
    return [[right[place] if place < len(right) else None for right in references] for place in range(most)]


@pytest.mark.parametrize("tokenize", texts.TOKENIZERS)
@settings(deadline=None, max_examples=25)
@given(drawn=st.one_of(ENGLISH_ROWS, CHINESE_ROWS))
def test_bleu_equals_sacrebleu(tokenize, drawn):
    from sacrebleu.metrics import BLEU

    predictions, references = zip(*drawn, strict=True)
    theirs = BLEU(tokenize=tokenize).corpus_score(list(predictions), columns(references)).score / 100
    counts = texts.bleu_statistics(references, predictions, tokenize=tokenize)
    assert texts.bleu_values(counts.sum(0))["bleu"] == pytest.approx(theirs, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(drawn=st.one_of(ENGLISH_ROWS, CHINESE_ROWS))
def test_chrf_equals_sacrebleu(drawn):
    from sacrebleu.metrics import CHRF

    predictions, references = zip(*drawn, strict=True)
    theirs = CHRF().corpus_score(list(predictions), columns(references)).score / 100
    counts = texts.chrf_statistics(references, predictions)
    assert texts.chrf_values(counts.sum(0))["chrf"] == pytest.approx(theirs, abs=1e-12)


def test_a_resample_scores_as_the_corpus_with_these_rows():
    from sacrebleu.metrics import BLEU, CHRF

    predictions = ["the cat sat on the mat", "a dog ran in the park today", "no word in common"]
    references = [["the cat sat on a mat"], ["a dog ran in a park today", "the dog ran"], ["etwas anderes"]]
    weights = np.array([[2.0, 1, 0], [0, 0, 3], [1, 1, 1]])
    scores = texts.values(weights @ texts.statistics(references, predictions))
    for place, drawn in enumerate(weights.astype(int)):
        some = [index for index, often in enumerate(drawn) for _ in range(often)]
        hypotheses = [predictions[index] for index in some]
        right = columns([references[index] for index in some])
        assert scores["bleu"][place] == pytest.approx(BLEU().corpus_score(hypotheses, right).score / 100, abs=1e-12)
        assert scores["chrf"][place] == pytest.approx(CHRF().corpus_score(hypotheses, right).score / 100, abs=1e-12)
    names = {"bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match", "distinct_1", "distinct_2"}
    assert set(scores) == names


def test_chinese_references_choose_the_chinese_tokenizer():
    right, said = [["今天天气很好，我们去北京。"]], ["今天天气很好，我们去上海。"]
    assert texts.bleu_statistics(right, said).tolist() == texts.bleu_statistics(right, said, tokenize="zh").tolist()
    assert texts.bleu_statistics(right, said)[0, 0] == 13  # tokens: each character and mark
    assert texts.bleu_statistics([["Hello there."]], ["Hello."])[0, 0] == 2
    with pytest.raises(ValueError, match="no tokenizer 'ja-mecab' for BLEU; use one of: 13a, zh, char, intl, none"):
        texts.bleu_statistics(right, said, tokenize="ja-mecab")


class GivenTokens:
    def tokenize(self, text):
        return text.split(" ") if text else []


@pytest.fixture(scope="module")
def rouge_score():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from rouge_score import rouge_scorer
    return rouge_scorer


KINDS = ["rouge1", "rouge2", "rougeL"]


def test_rouge_equals_rouge_score_in_english(rouge_score):
    scorer = rouge_score.RougeScorer(KINDS)

    @settings(deadline=None, max_examples=60)
    @given(ENGLISH_ROWS)
    def check(drawn):
        predictions, references = zip(*drawn, strict=True)
        each = [scorer.score_multi(right, said) for said, right in drawn]
        theirs = [np.mean([row[kind].fmeasure for row in each]) for kind in KINDS]
        mine = texts.rouge_values(texts.rouge_statistics(references, predictions).sum(0))
        assert list(map(float, mine.values())) == pytest.approx(theirs, abs=1e-12)

    check()


def test_rouge_equals_rouge_score_in_chinese_given_the_same_tokens(rouge_score):
    scorer = rouge_score.RougeScorer(KINDS, tokenizer=GivenTokens())

    @settings(deadline=None, max_examples=60)
    @given(st.text(alphabet="今天很好我", max_size=30), st.text(alphabet="今天很好我", min_size=1, max_size=30))
    def check(said, right):
        theirs = scorer.score(" ".join(right), " ".join(said))
        mine = texts.rouge_statistics([[right]], [said])[0, :3]
        assert mine == pytest.approx([theirs[kind].fmeasure for kind in KINDS], abs=1e-12)

    check()


@pytest.mark.parametrize(
    ("text", "chinese", "tokens"),
    [
        ("姚明在NBA打了9.5年，Wow！", True, ["姚", "明", "在", "nba", "打", "了", "9.5", "年", "wow"]),
        ("3kg 苹果", True, ["3kg", "苹", "果"]),
        ("The cat's 9.5 naïve", False, ["the", "cat", "s", "9", "5", "na", "ve"]),
    ],
)
def test_text_is_split_by_its_language(text, chinese, tokens):
    assert rouge.split_text(text, chinese) == tokens


def test_hand_worked_rouge_takes_the_best_reference_for_each_score():
    counts = texts.rouge_statistics([["我爱北京", "北京我爱你"]], ["我爱你北京"])
    # against the first: 4 of 5 and 4 of 4 characters, pairs 我爱 and 北京 of 4 and 3, in order 我爱北京
    # against the second: 5 of 5 and 5 of 5; pairs 我爱, 爱你, 北京 of 4 and 4; in order 我爱你, 3 of 5
    assert counts[0] == pytest.approx([1.0, 3 / 4, 8 / 9, 1])


def test_hand_worked_surface():
    counts = texts.surface_statistics([["a b"], ["好好"]], ["a b a b\n", " 好好 "])
    assert counts.tolist() == [[0, 1, 2, 4, 2, 3], [1, 1, 1, 2, 1, 1]]
    scores = texts.surface_values(counts.sum(0))
    assert [float(value) for value in scores.values()] == pytest.approx([1 / 2, 3 / 6, 3 / 4])


def test_rows_without_reference_are_refused():
    for count in (texts.bleu_statistics, texts.chrf_statistics, texts.rouge_statistics, texts.surface_statistics):
        with pytest.raises(ValueError, match="1 rows have no reference, first row 2"):
            count([["a"], []], ["a", "b"])
        with pytest.raises(ValueError, match="2 predictions, but references for 1 rows"):
            count([["a"]], ["a", "b"])


def test_nothing_said_scores_zero_and_says_no_warning():
    scores = texts.values(texts.statistics([["今天很好"], ["x"]], ["", " "]).sum(0))
    assert all(float(value) == 0.0 for value in scores.values())


def test_perplexity_is_of_tokens_and_bits_are_of_characters():
    counts = texts.perplexity_statistics([math.log(2) * 4, math.log(8) * 2], [4, 2], [8, 12])
    scores = texts.perplexity_values([counts.sum(0), counts[0], [0, 0, 0]])
    assert scores["perplexity"] == pytest.approx([2 ** (10 / 6), 2, 1])
    assert scores["bits_per_character"] == pytest.approx([10 / 20, 1 / 2, 0])
    assert np.isinf(texts.perplexity_values([1e6, 1, 1])["perplexity"])


@given(st.integers(1, 40), st.data())
def test_pass_at_k_equals_counting_the_draws(tried, data):
    right = data.draw(st.integers(0, tried))
    ks = data.draw(st.lists(st.integers(1, tried), min_size=1, max_size=3, unique=True))
    mine = texts.pass_statistics([tried], [right], ks)[0]
    theirs = [1 - math.comb(tried - right, k) / math.comb(tried, k) for k in ks]
    assert mine == pytest.approx([*theirs, 1], abs=1e-12)


def test_pass_at_k_is_a_mean_over_problems():
    counts = texts.pass_statistics([10, 10], [0, 3], [1, 10])
    scores = texts.pass_values(counts.sum(0), [1, 10])
    assert scores["pass_at_1"] == pytest.approx(0.15)
    assert scores["pass_at_10"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="problem 2 has 1 right of 5 samples; cannot give pass@10"):
        texts.pass_statistics([10, 5], [1, 1], [1, 10])
