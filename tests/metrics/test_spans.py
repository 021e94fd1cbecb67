"""Spans against seqeval, relations against a plain reading of the official scorer."""

import itertools
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.metrics import spans

TAGS = ["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in ("PER", "LOC", "A-B"))]
PAIRS = st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS))
SENTENCES = st.lists(st.lists(PAIRS, max_size=9), min_size=1, max_size=6)


def seqeval():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import seqeval.metrics
        import seqeval.metrics.sequence_labeling
    return seqeval.metrics


@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag")
def test_spans_of_thousands_of_sentences_are_read_as_seqeval_reads_them():
    generator = random.Random(0)
    some = [*TAGS, "O", "B", "I", "E", "S", "BPER", "B-", "I-X-Y", "PER", "X-PER"]
    for _ in range(5000):
        tags = generator.choices(some, k=generator.randrange(13))
        theirs = seqeval().sequence_labeling.get_entities(tags)
        assert spans.read_spans(tags) == [(start, end + 1, label) for label, start, end in theirs], tags


@settings(deadline=None, max_examples=80)
@given(SENTENCES)
def test_scores_equal_seqeval_to_the_last_digit(sentences):
    true = [[pair[0] for pair in rows] for rows in sentences]
    answered = [[pair[1] for pair in rows] for rows in sentences]
    expected, predicted = [[spans.read_spans(tags) for tags in rows] for rows in (true, answered)]
    labels = spans.find_labels(expected, predicted)
    sums = spans.statistics(expected, predicted, labels).sum(0)
    mine = spans.values(sums)
    for name, average in (("precision", "micro"), ("recall", "micro"), ("f1", "micro"), ("f1", "macro")):
        score = getattr(seqeval(), f"{name}_score")
        theirs = score(true, answered, average=average, zero_division=0) if labels else 0.0
        assert mine[name if average == "micro" else "macro_f1"] == pytest.approx(theirs, abs=1e-12)
    if labels:
        each = seqeval().sequence_labeling.precision_recall_fscore_support(true, answered, zero_division=0)
        table = spans.per_label(sums, labels)
        for place, label in enumerate(labels):
            assert list(table[label].values()) == pytest.approx([float(column[place]) for column in each], abs=1e-12)


def test_bilou_and_bmes_are_read_as_bioes():
    want = [(0, 3, "PER"), (3, 4, "LOC")]
    assert spans.read_spans(["B-PER", "I-PER", "L-PER", "U-LOC"]) == want
    assert spans.read_spans(["B-PER", "M-PER", "E-PER", "S-LOC"]) == want
    assert spans.read_spans(["", "I-PER", ""]) == [(1, 2, "PER")]


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@given(data=st.data())
def test_written_tags_are_lawful_and_read_back(scheme, data):
    cuts = data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=8, unique=True).map(sorted))
    some = [(start, end, data.draw(st.sampled_from("XY"))) for start, end in itertools.pairwise(cuts)]
    tags = spans.write_tags(some, 12, scheme)
    assert spans.read_spans(tags) == some
    assert spans.check_tags(tags, scheme) == []


def test_spans_that_cannot_be_written_are_refused():
    with pytest.raises(ValueError, match=r"span 2\.\.5 of 'X' does not lie within the 4 tokens"):
        spans.write_tags([(2, 5, "X")], 4)
    with pytest.raises(ValueError, match=r"span 1\.\.3 of 'Y' overlaps another span"):
        spans.write_tags([(0, 2, "X"), (1, 3, "Y")], 4)
    with pytest.raises(ValueError, match="use BIO or BIOES"):
        spans.write_tags([], 4, "IOB1")


@pytest.mark.parametrize(
    ("scheme", "tags", "problems"),
    [
        ("BIO", "B-X I-X O B-X B-Y", []),
        ("BIO", "O I-X", ["token 2 has the tag 'I-X' without a B-X or I-X before it"]),
        ("BIO", "B-X I-Y", ["token 2 has the tag 'I-Y' without a B-Y or I-Y before it"]),
        ("BIO", "B-X E-X", ["token 2 has the tag 'E-X', which BIO does not know"]),
        ("BIO", "PER", ["token 1 has the tag 'PER', which BIO does not know"]),
        ("IOB1", "I-X B-X O I-Y", []),
        ("IOB1", "O B-X", ["token 2 has the tag 'B-X', which IOB1 allows only right after the same label"]),
        ("BIOES", "B-X I-X E-X S-Y", []),
        ("BIOES", "B-X O", ["token 1 leaves an entity of 'X' open; it should end with E"]),
        ("BIOES", "S-X I-X E-X", ["token 2 has the tag 'I-X' without a B-X or I-X before it"]),
        ("BIOES", "S-X B-X", ["token 2 leaves an entity of 'X' open; it should end with E"]),
        ("BILOU", "B-X L-X U-X", []),
        ("BILOU", "B-X E-X", ["token 2 has the tag 'E-X', which BILOU does not know"]),
    ],
)
def test_what_breaks_a_scheme_is_named_with_its_token(scheme, tags, problems):
    assert spans.check_tags(tags.split(), scheme) == problems


def test_hand_worked_scores_and_resamples():
    expected = [[(0, 2, "人名")], [(1, 3, "地名"), (1, 3, "地名")], []]
    predicted = [[(0, 2, "人名")], [(1, 2, "地名")], [(0, 1, "人名")]]
    counts = spans.statistics(expected, predicted, ("人名", "地名"))
    assert counts.tolist() == [[1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]]
    scores = spans.values(np.array([[1.0, 1, 1], [3, 0, 0], [0, 1, 0]]) @ counts)
    assert scores["precision"] == pytest.approx([1 / 3, 1, 0])
    assert scores["recall"] == pytest.approx([1 / 2, 1, 0])
    assert scores["f1"] == pytest.approx([2 / 5, 1, 0])
    assert scores["macro_f1"] == pytest.approx([(2 / 3 + 0) / 2, 1, 0])  # a label that was not drawn is not averaged
    with pytest.raises(ValueError, match="span label '地名' is not among the labels 人名"):
        spans.statistics(expected, predicted, ("人名",))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abo"), st.sampled_from("abo")), min_size=1, max_size=30))
def test_f1_without_other_equals_scikit_learn(pairs):
    from sklearn.metrics import precision_recall_fscore_support

    expected, answered = zip(*pairs, strict=True)
    scores = spans.values(spans.label_statistics(expected, answered, ("a", "b")).sum(0))
    seen = sorted({*expected, *answered} - {"o"})
    if seen:
        theirs = [
            precision_recall_fscore_support(expected, answered, labels=seen, average=average, zero_division=0)[:3]
            for average in ("micro", "macro")
        ]
        mine = [float(scores[name]) for name in ("precision", "recall", "f1", "macro_f1")]
        assert mine == pytest.approx([*theirs[0], theirs[1][2]], abs=1e-12)


RELATION_LABELS = [f"{name}({way})" for name in spans.RELATIONS[:4] for way in ("e1,e2", "e2,e1")] + ["Other"]


def official_relation_scores(expected, answered):
    """Walk through the rows as the scorer's description says: P, R and F1 of each relation, directions together."""
    each = []
    totals = [0, 0, 0]
    bare = [[label.split("(")[0] for label in labels] for labels in (expected, answered)]
    for relation in sorted(set(bare[0]) - {"Other"}):
        right = sum(a == b and c == relation for a, b, c in zip(expected, answered, bare[0], strict=True))
        proposed, true = bare[1].count(relation), bare[0].count(relation)
        precision, recall = right / proposed if proposed else 0, right / true
        each.append(2 * precision * recall / (precision + recall) if right else 0)
        totals = [total + more for total, more in zip(totals, (right, proposed, true), strict=True)]
    precision = totals[0] / totals[1] if totals[1] else 0
    recall = totals[0] / totals[2] if totals[2] else 0
    f1 = 2 * precision * recall / (precision + recall) if totals[0] else 0
    return [precision, recall, f1, sum(each) / len(each) if each else 0]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.sampled_from(RELATION_LABELS), st.sampled_from(RELATION_LABELS)), min_size=1, max_size=40))
def test_relations_are_scored_as_by_the_official_scorer(pairs):
    expected, answered = zip(*pairs, strict=True)
    scores = spans.relation_values(spans.relation_statistics(expected, answered).sum(0))
    mine = [float(scores[name]) for name in ("precision", "recall", "f1", "macro_f1")]
    assert mine == pytest.approx(official_relation_scores(expected, answered), abs=1e-12)


def test_wrong_direction_is_no_hit_but_is_predicted():
    expected = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other", "Message-Topic(e1,e2)"]
    answered = ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Entity-Origin(e1,e2)", "Message-Topic(e1,e2)"]
    scores = spans.relation_values(spans.relation_statistics(expected, answered).sum(0))
    assert scores["macro_f1"] == pytest.approx((0.5 + 1) / 2)  # Entity-Origin is in no true row and is left out
    assert scores["precision"] == pytest.approx(2 / 3)
