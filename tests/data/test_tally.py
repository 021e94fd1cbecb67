from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.normalise import normalise_text
from tunesmith.data.tally import Tally

ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "A ", "b", "c", "d d", "D  d", "e" * 40]), st.sampled_from("xyz")), max_size=30
)


def tally_of(rows):
    tally = Tally()
    for row, (text, label) in enumerate(rows, start=2):
        tally.add(row, text, label)
    return tally


def slow_conflicts(rows):
    groups = {}
    for row, (text, label) in enumerate(rows, start=2):
        groups.setdefault(normalise_text(text), {}).setdefault(label, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


@settings(deadline=None, max_examples=200)
@given(rows=ROWS)
def test_counts_equal_a_slow_count(rows):
    tally = tally_of(rows)
    texts = [normalise_text(text) for text, _ in rows]
    assert tally.label_counts() == dict(Counter(label for _, label in rows))
    assert list(tally.label_counts().values()) == sorted(tally.label_counts().values(), reverse=True)
    assert tally.duplicates() == len(texts) - len(set(texts))
    assert tally.distinct_texts() == dict(
        Counter(label for _, label in {(normalise_text(text), label) for text, label in rows})
    )
    assert list(tally.conflicts()) == slow_conflicts(rows)


@settings(deadline=None, max_examples=100)
@given(rows=ROWS)
def test_a_label_can_be_taken_out(rows):
    kept = [(row, text, label) for row, (text, label) in enumerate(rows, start=2) if label != "x"]
    tally = tally_of([("a", "x"), *rows]).without_labels({"x"})
    assert list(tally.rows) == [row + 1 for row, _, _ in kept]
    assert list(tally.lengths) == [len(text) for _, text, _ in kept]
    assert tally.label_counts() == dict(Counter(label for _, _, label in kept))


@settings(deadline=None, max_examples=100)
@given(rows=ROWS, others=ROWS)
def test_shared_rows_are_those_with_a_text_of_the_other_file(rows, others):
    there = {normalise_text(text) for text, _ in others}
    expected = [row for row, (text, _) in enumerate(rows, start=2) if normalise_text(text) in there]
    assert tally_of(rows).shared_rows(tally_of(others)) == expected


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_the_histogram_has_at_most_ten_bins_without_gaps(lengths):
    bins = tally_of([("w" * length, "x") for length in lengths]).length_histogram()
    assert len(bins) <= 10
    assert bins[0][0] == 0
    assert all(left[1] == right[0] for left, right in pairwise(bins))
    assert [count for low, high, count in bins] == [sum(low <= n < high for n in lengths) for low, high, _ in bins]
    assert sum(count for _, _, count in bins) == len(lengths)
