"""Charts are well-formed, escaped and finite."""

from __future__ import annotations

import inspect
import re
import xml.etree.ElementTree as ElementTree

from test_report import whole_report

from made_up import make_gain, make_scores
from tunesmith.bundle import charts


def test_every_chart_of_a_page_is_well_formed_and_named():
    drawings = re.findall(r"<svg.*?</svg>", whole_report(["a", "b & c", "d<e"], n=80), flags=re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert "viewBox" in root.attrib
        for element in root.iter():
            for name, value in element.attrib.items():
                assert not re.search(r"nan|inf\b", value), (name, value)


def test_every_public_chart_has_a_docstring():
    for name, function in inspect.getmembers(charts, inspect.isfunction):
        if function.__module__ == charts.__name__ and not name.startswith("_"):
            assert function.__doc__, name


def test_samples_are_what_the_report_expects():
    assert make_gain(["a", "b"]).after.details["labels"] == ["a", "b"]
    assert len(make_scores(["a", "b"]).details["reliability"]) == 10
