"""`tunesmith feedback` and `tunesmith label`, from what is typed to what is kept."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from feedback_rows import answered, feedback
from tunesmith.cli import main
from tunesmith.data.feedback.store import open_store
from tunesmith.data.mask import Masker
from tunesmith.tasks import find_task
from tunesmith.types import Prediction

LABELS = {"text-classification": ("bad", "good"), "multi-label-classification": ("bug", "wish", "praise")}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder whose bundle is a stand-in: it knows its task, its labels and its columns, and guesses."""
    monkeypatch.delenv("TUNESMITH_STORE", raising=False)
    folder = tmp_path / "runs" / "reviews"
    folder.mkdir(parents=True)

    def use(task: str, roles=None, labels=None):
        asked = find_task(task)

        def predictions(records):
            return [Prediction(record.id, "good", 0.4, {}, 0.0, "b1") for record in records]

        bundle = SimpleNamespace(
            task=asked,
            labels=labels or LABELS.get(task, ()),
            id="b1",
            plan=SimpleNamespace(data={"roles": roles or {}}),
            predictions=predictions,
        )
        monkeypatch.setattr("tunesmith.bundle.load.load", lambda *_, **__: bundle)
        return str(folder)

    use.folder = folder
    use.store = f"sqlite:///{tmp_path}/runs/registry/feedback.sqlite"
    return use


def typed(monkeypatch, *lines):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def kept(run):
    with open_store(run.store) as store:
        return list(store.rows("reviews", only_labelled=False))


def given(run, *rows):
    with open_store(run.store) as store:
        store.answered(rows)


def test_answered_rows_are_labelled_from_the_store(run, monkeypatch, capsys):
    folder = run("text-classification")
    given(run, *(answered(f"p{number}", confidence=0.4 + number / 100) for number in range(1, 6)))
    typed(monkeypatch, "1", "", "good", "c too short to tell", "s", "q")
    assert main(["label", folder, "--by", "ben", "--model", "reviews"]) == 0
    shown = capsys.readouterr().out
    assert "[1/5]" in shown
    assert "1 bad   2 good" in shown
    assert "the model says: good (0.41)" in shown
    assert "3 labelled, 1 skipped; 3 labelled rows in all" in shown
    assert f"next:  tunesmith update {folder}" in shown
    rows = kept(run)
    assert [(row.is_correct, row.corrected, row.by) for row in rows] == [
        (False, "bad", "ben"),
        (True, None, "ben"),
        (True, "good", "ben"),
        (None, None, "ben"),
    ]
    assert rows[3].comment == "too short to tell"
    typed(monkeypatch, "s", "s", "s")
    main(["label", folder])
    assert "[1/2]" in capsys.readouterr().out, "what was labelled is not shown again; what was skipped is"


def test_undo_takes_back_and_shows_the_row_again(run, monkeypatch, capsys):
    folder = run("text-classification")
    given(run, answered("p1", confidence=0.1), answered("p2", confidence=0.2))
    typed(monkeypatch, "u", "bad", "u", "good", "s", "u", "q")
    assert main(["label", folder, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["in_all"] == 1
    assert "there is nothing to take back" in output.err
    assert [(row.prediction, row.corrected) for row in kept(run)] == [("p1", "good")]


def test_what_is_unclear_is_asked_again_and_new_labels_can_be_made(run, monkeypatch, capsys):
    folder = run("text-classification")
    given(run, answered("p1", value=None, confidence=0.1), answered("p2", confidence=0.2))
    typed(monkeypatch, "7", "meh", "", "?", "+mixed", "3")
    assert main(["label", folder]) == 0
    shown = capsys.readouterr().out
    assert "'7' is no label; give 1 to 2, a name, or +NAME for a new one" in shown
    assert "the model gave no answer to agree with" in shown
    assert "s skip, u undo, c comment, q quit" in shown
    assert [row.corrected for row in kept(run)] == ["mixed", "mixed"]


def test_the_end_of_what_is_typed_ends_the_session_with_all_kept(run, monkeypatch):
    folder = run("text-classification")
    given(run, answered("p1"), answered("p2"))
    typed(monkeypatch, "1")
    assert main(["label", folder]) == 0
    assert len(kept(run)) == 1


def test_several_labels(run, monkeypatch):
    folder = run("multi-label-classification")
    given(run, *(answered(f"p{number}", value=["bug"], confidence=number / 10) for number in range(1, 5)))
    typed(monkeypatch, "1 3", "0", "praise, +new", "9", "")
    assert main(["label", folder]) == 0
    assert [(row.is_correct, row.corrected) for row in kept(run)] == [
        (False, ["bug", "praise"]),
        (False, []),
        (False, ["new", "praise"]),
        (True, None),
    ]


def test_spans_are_marked_by_their_words(run, monkeypatch, capsys):
    folder = run("token-classification", labels=("person", "city"))
    text = "Ada met Ada in Rome"
    given(run, answered("p1", fields={"text": text}, value=[]), answered("p2", fields={"text": "x y"}, value=[]))
    typed(monkeypatch, "1 Bob", "1 Ada Rome", "1 Ada #2 | city Rome", ":c odd one", "-")
    assert main(["label", folder]) == 0
    assert "'Bob' stands in the text 0 times, letter by letter" in capsys.readouterr().out
    first, second = kept(run)
    assert [(span["start"], span["end"], span["label"]) for span in first.corrected] == [
        (8, 11, "person"),
        (15, 19, "city"),
    ]
    assert (second.corrected, second.is_correct, second.comment) == ([], True, "odd one")


def test_an_answer_in_words_is_checked_by_the_task(run, monkeypatch, capsys):
    folder = run("question-answering")
    fields = {"question": "Where?", "context": "Ada lives in Rome"}
    given(run, answered("p1", fields=fields, value={"text": "Ada", "start": 0, "end": 3}))
    typed(monkeypatch, "Paris", "Rome")
    assert main(["label", folder]) == 0
    assert "does not stand in the context" in capsys.readouterr().out
    assert [(row.corrected, row.is_correct) for row in kept(run)] == [("Rome", False)]


def test_a_written_answer_and_a_choice(run, monkeypatch):
    folder = run("summarisation")
    given(run, answered("p1", fields={"document": "long"}, value="short"))
    typed(monkeypatch, "s\\nhorter")
    assert main(["label", folder]) == 0
    assert [row.corrected for row in kept(run)] == ["s\nhorter"]
    folder = run("multiple-choice")
    given(run, answered("p2", fields={"question": "?", "choices": ["x", "y"]}, value=0))
    typed(monkeypatch, "3", "2")
    assert main(["label", folder]) == 0
    assert [row.corrected for row in kept(run) if row.prediction == "p2"] == [1]


def test_rows_of_a_file_are_masked_labelled_and_not_shown_twice(run, monkeypatch, capsys, tmp_path):
    folder = run("token-classification", labels=("person",))
    rows = ["text", "Mail a@b.com to Ada", '""', "Bob called 13812345678"]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(
        "tunesmith.bundle.evaluate.columns_for",
        lambda bundle, source, wanted, needs_targets: SimpleNamespace(roles={"text": "text"}),
    )
    monkeypatch.setattr("tunesmith.cli.label._answered", lambda bundle, records, fields, name: [
        answered("", model=name, fields=given, value=[], confidence=0.5) for given in fields
    ])  # fmt: skip
    typed(monkeypatch, "1 Ada", "q")
    assert main(["label", folder, str(tmp_path / "rows.csv")]) == 0
    output = capsys.readouterr()
    assert "row 3: the text (column 'text') is empty" in output.err
    assert "Mail a@b.com to Ada" in output.out, "who labels a file of their own sees it as it is"
    (row,) = kept(run)
    assert row.fields == {"text": "Mail [EMAIL] to Ada"}
    assert row.fields["text"][row.corrected[0]["start"] : row.corrected[0]["end"]] == "Ada"
    typed(monkeypatch, "q")
    main(["label", folder, str(tmp_path / "rows.csv")])
    output = capsys.readouterr()
    assert "1 rows have a label in the store already" in output.err
    assert "Ada" not in output.out


def test_texts_cannot_steer_the_terminal(run, monkeypatch, capsys):
    folder = run("text-classification")
    given(run, answered("p1", fields={"text": "red \x1b[31m and \u202eback\r\nnext"}))
    typed(monkeypatch, "1")
    main(["label", folder])
    main(["feedback", "list", folder])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\r" not in shown


def test_nothing_to_label_is_said(run, monkeypatch, capsys):
    folder = run("text-classification")
    typed(monkeypatch)
    assert main(["label", folder]) == 0
    assert "nothing to label among the answers kept of 'reviews'" in capsys.readouterr().out
    assert main(["label", folder, "-n", "0"]) == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals to play")
def test_one_key_is_enough_at_a_terminal(run, monkeypatch):
    from tunesmith.cli import label_session

    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        for keys, line in ((b"1", "1"), (b"\n", ""), (b"q", "q"), (b"\x04", None)):
            os.write(ours, keys)
            assert label_session._read("> ", one_key=True) == line
    os.close(ours)


def test_feedback_is_counted_listed_and_exported(run, capsys, tmp_path):
    folder = run("text-classification", roles={"text": "review", "label": "stars"})
    with open_store(run.store) as store:
        store.add(feedback(1, at=time.time()))
        store.add(feedback(2, prediction="p1", corrected="worse", at=time.time() + 1))
        store.add(feedback(3, corrected=None, comment="=1+1"))
        store.mark_used("b2", ["f2"])
    assert main(["feedback", "count", folder]) == 0
    assert "reviews: 1 rows with a right answer, 0 of them not learnt yet" in capsys.readouterr().out
    assert main(["feedback", "count", "--store", run.store]) == 0
    assert "3  reviews" in capsys.readouterr().out
    assert main(["feedback", "list", folder, "--history"]) == 0
    shown = capsys.readouterr().out
    assert "good -> worse" in shown
    assert "3 of 3 rows of feedback on reviews" in shown
    out = tmp_path / "rows.csv"
    assert main(["feedback", "export", folder, "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == "review,stars\ntext of p2,worse\n"
    assert main(["feedback", "export", folder, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["feedback", "export", folder, "--out", str(out), "--force", "--since", "1h", "--details"]) == 0


def test_an_export_is_unmasked_with_the_key_and_places_follow(run, tmp_path):
    folder = run("token-classification", labels=("person",))
    masker = Masker(key=bytes(64))
    fields = {"text": "Mail a@b.com to Ada"}
    spans = [{"start": 16, "end": 19, "label": "person", "text": "Ada"}]
    row = feedback(1, fields=masker.mask_fields(fields), corrected=masker.mask_answer(fields, spans), answered=[])
    with open_store(run.store) as store:
        store.add(row)
    (tmp_path / "mask.key").write_bytes(bytes(64))
    out = tmp_path / "rows.jsonl"
    assert main(["feedback", "export", folder, "--out", str(out), "--key", str(tmp_path / "mask.key")]) == 0
    assert json.loads(out.read_text()) == {"text": "Mail a@b.com to Ada", "entities": spans}


def test_people_are_deleted_old_rows_purged_and_stores_backed_up(run, capsys):
    folder = run("text-classification")
    with open_store(run.store) as store:
        store.add(feedback(1, subject="anna", at=time.time()))
        store.add(feedback(2, at=5.0))
        store.mark_used("b7", ["f1"])
    assert main(["feedback", "backup", folder]) == 0
    assert "backup: " in capsys.readouterr().out
    assert main(["feedback", "delete", folder, "--subject", "anna", "--json"]) == 0
    gone = json.loads(capsys.readouterr().out)
    assert (gone["feedback"], gone["bundles"], gone["backups"]) == (1, {"b7": 1}, 1)
    assert main(["feedback", "count", folder]) == 0
    assert "bundle b7 was trained on 1 rows that were deleted since" in capsys.readouterr().err
    assert main(["feedback", "purge", folder, "--older-than", "30d"]) == 0
    assert "removed 0 answers and 1 pieces of feedback; 1 backups cleaned" in capsys.readouterr().out
    assert main(["feedback", "restore", folder]) == 0
    assert "0 pieces of feedback" in capsys.readouterr().out
    assert main(["feedback", "migrate", folder, "--to", "2"]) == 0
    assert "from version 3 to 2; gone: whose key asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count"], "no run and no store is named"),
        (["export", "RUN"], "export needs the run and --out"),
        (["delete", "RUN"], "delete needs --subject"),
        (["purge", "RUN"], "purge needs --older-than"),
        (["purge", "RUN", "--older-than", "soon"], "'soon' is no age"),
        (["migrate", "RUN"], "migrate needs --to VERSION"),
        (["migrate", "RUN", "--to", "99"], "no schema version 99"),
        (["list", "RUN", "--since", "1y"], "'1y' is no age"),
        (["burn", "RUN"], "invalid choice: 'burn'"),
    ],
)
def test_mistakes_are_told_in_three_parts(run, capsys, arguments, said):
    folder = run("text-classification")
    open_store(run.store).close()
    assert main(["feedback", *[folder if each == "RUN" else each for each in arguments]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "  where: " in error
    assert "  do:    " in error


def test_a_store_that_is_not_there_is_said(run, capsys):
    folder = run("text-classification")
    assert main(["feedback", "list", folder]) == 4
    assert "there is no feedback store yet" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_run_is_labelled_by_a_pipe_exported_and_found_in_training_form(toy_run, toy_data, tmp_path):
    """The real process, a real model: rows of a file are answered, chosen, labelled, exported in the run's columns."""
    store = str(tmp_path / "feedback.sqlite")
    command = [sys.executable, "-m", "tunesmith"]
    lines = "1\n2\n\ns\n+other\nq\n"
    done = subprocess.run(
        [*command, "label", toy_run.path, toy_data["test"], "-n", "10", "--store", store, "--json", "--threads", "1"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    assert json.loads(done.stdout)["labelled"] >= 3
    out = tmp_path / "rows.csv"
    exporting = [*command, "feedback", "export", toy_run.path, "--store", store, "--out", out]
    subprocess.run(exporting, capture_output=True, timeout=400, check=True)
    from tunesmith import data

    found = data.inspect(out, given={})
    assert found.used == json.loads(done.stdout)["labelled"]
    assert set(found.columns) == {"text", "label"}
