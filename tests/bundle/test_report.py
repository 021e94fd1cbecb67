"""The report is one safe, self-contained page, whatever the data."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from made_up import HOSTILE, make_events, make_gain, make_inspection, make_plan, make_scores
from tunesmith.bundle.report import gain_table_html, render_report

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "wbr"}
SHAPES = {"circle", "line", "path", "polyline", "rect", "use", "polygon", "ellipse"}


class Page(HTMLParser):
    """Collects what a browser would see, and fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if self.open and self.open[-1] != tag and self.open[-1] in {"p", "li", "td", "th", "tr", "dd", "dt", *SHAPES}:
            self.open.pop()  # HTML lets these end by themselves
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        self.words.append(data)


def whole_report(
    labels: list[str], n: int = 60, *, name: str = "reviews", text: str = "some text", path: str = "r.csv"
) -> str:
    gain = make_gain(labels, n, text=text)
    return render_report(
        name=name,
        scores=gain.after,
        gain=gain,
        plan=make_plan(labels),
        events=make_events(),
        inspection=make_inspection(labels, path),
        recipe=f"data: {path}\n",
        created="2026-01-01",
    )


def numbered(count: int, stem: str = "label") -> list[str]:
    return [f"{stem} {index}" for index in range(count)]


def check_is_safe(text: str) -> Page:
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    names = {name for name, _ in page.attributes}
    assert not [name for name in names if name.startswith("on")]
    for name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "action", "data"}:
            assert (value or "").startswith(("#", "data:")), f"{name}={value}"
    policy = [value for name, value in page.attributes if name == "content" and value and "default-src" in value]
    assert policy
    assert "default-src 'none'" in policy[0]
    assert not re.search(r"\b(?:nan|inf)\b", " ".join(page.words), flags=re.IGNORECASE)
    return page


@pytest.mark.parametrize("labels", [["neg", "pos"], ["体育", "娱乐", "财经"], numbered(77), numbered(151, "标签")])
def test_page_is_whole_and_safe(labels):
    page = check_is_safe(whole_report(labels, n=300))
    words = " ".join(page.words)
    for expected in ("It cannot be told.", "TF-IDF", "Adapted model", labels[0], "More rows help."):
        assert expected in words


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(hostile):
    text = whole_report([hostile, hostile + " 2", "fine"], name=hostile, text=hostile, path=hostile)
    page = check_is_safe(text)
    assert ("{{7*7}}" in text) == (hostile == "{{7*7}}"), "a template in the data is never filled in"
    assert any("fine" in word for word in page.words)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_show_no_broken_number(n):
    check_is_safe(whole_report(["a", "b", "never seen"], n=n))


def test_an_evaluation_shows_scores_without_comparison():
    page = check_is_safe(render_report(name="run on test.csv", scores=make_scores(["a", "b"])))
    words = " ".join(page.words)
    assert "TF-IDF" not in words
    assert "Accuracy" in words


def test_the_same_input_gives_the_same_bytes():
    assert whole_report(numbered(5)) == whole_report(numbered(5))


def test_notebook_table_is_escaped():
    table = gain_table_html("<b>run</b>", make_gain(["a", "b"]))
    assert "<b>" not in table
    assert table.count("<tr>") == 5


def test_where_the_time_went_and_what_was_tried_are_shown():
    labels = ["a", "b"]
    gain = make_gain(labels, 60)
    attempt = {"attempt": "<top> block", "began": 2.0, "seconds": 65.0, "valid_score": 0.815, "problem": ""}
    stages = {"forward": 3.0, "backward": 6.0, "reading": 1.0}
    facts = {
        "name": "r",
        "scores": gain.after,
        "gain": gain,
        "plan": make_plan(labels),
        "inspection": make_inspection(labels, "r.csv"),
    }
    more = {
        "attempts": [{**attempt, "is_kept": True}, {**attempt, "is_kept": False, "problem": "it broke"}],
        "speed": {
            "stages": stages,
            "tokens": 12_000,
            "tokens_per_second": 1234.0,
            "peak_gflops": 100.0,
            "share_of_peak": 0.62,
        },
    }
    words = " ".join(check_is_safe(render_report(**facts, **more)).words)
    for shown in ("<top> block", "81.5%", "it broke", "1 min 5 s", "1,234", "62%", "backward", "60%"):
        assert shown in words, shown
    plain = " ".join(Page(render_report(**facts)).words)
    assert "Where the time went" not in plain
    assert "What was tried" not in plain
