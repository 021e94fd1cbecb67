"""Programs: what is shown and run, pass@k, names, fences, the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.writers import learn_by_heart, make_causal
from tunesmith.data.layout import Cells, Fault
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.code_generation import SAMPLES, TASK, asked_name, code_of, renamed
from tunesmith.types import Origin, Record, Splits

SETTINGS: dict[str, Any] = {"labels": (), "batch_tokens": 4096}
ADD = {"prompt": "Add two numbers.", "code": "def add(a, b):\r\n\treturn a + b  ", "tests": ["assert add(1, 2) == 3"]}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ()=:+,.\n\tYour"
HUMAN = {
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "code": "    return a + b",
    "tests": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_causal(tmp_path_factory.mktemp("causal") / "base", [LETTERS], longest=128)


def read(values: dict[str, Any], row: int = 1, *, known: bool = True) -> Record:
    cells = Cells(values)
    fields = TASK.read_input(cells)
    return Record(str(row), fields, TASK.read_target(cells, fields) if known else None, Origin("rows.jsonl", row))


def score(records, values):
    return TASK.score(records, [(value, None, {}) for value in values], labels=(), main="pass_at_1", seed=0)


def test_rows_are_read_and_tidied():
    record = read({**ADD, "test_setup_code": "import math", "tests": [*ADD["tests"], "assert add(0, 0) == 0"]})
    assert record.target["code"] == "def add(a, b):\n\treturn a + b"
    assert record.target["setup"] == "import math"
    assert len(record.target["tests"]) == 2
    assert record.fields["tests"] == "assert add(1, 2) == 3"


def test_only_the_first_test_is_shown():
    record = read({**ADD, "tests": ["assert add(1, 2) == 3", "assert add(5, 5) == 10"]})
    source = TASK.source(record.fields, None)
    assert source == "Add two numbers.\nYour code should pass this test:\nassert add(1, 2) == 3\n\n"
    assert TASK.source(read(HUMAN).fields, None) == HUMAN["prompt"].strip("\n") + "\n"
    assert TASK.source({"prompt": "Add."}, None) == "Add.\n"
    assert read(record.fields, known=False).fields == record.fields, "what was read can be given to predict"


@pytest.mark.parametrize(
    ("tests", "shown"),
    [
        ("import math\nassert f(1) == 2\nassert f(2) == 3", "assert f(1) == 2"),
        ("assert f(1) == 2; assert f(2) == 3", "assert f(1) == 2"),
        ("assert f(\r\n  1) == 2, 'a'\r\nassert f(2) == 3", "assert f(\n  1) == 2, 'a'"),
        ("def check(g):\n    assert g(1) == 2\n    assert g(2) == 3\ncheck(f)", "assert g(1) == 2"),
        ("import f\nif f(1) != 2: raise ValueError\nif f(2) != 3: raise ValueError", "if f(1) != 2: raise ValueError"),
        ("print 1\nassert f(1)\nassert f(2)", "assert f(1)"),
    ],
)
def test_of_several_asserts_in_one_text_the_first_is_shown(tests, shown):
    record = read({**ADD, "tests": tests})
    assert record.fields["tests"] == shown
    assert TASK.source(record.fields, None).endswith(f"this test:\n{shown}\n\n")
    assert read(record.fields, known=False).fields == record.fields


def test_a_test_of_what_it_is_given_is_shown_with_the_asked_name():
    assert read({**HUMAN, "prompt": "Add."}).fields["tests"] == "assert add(1, 2) == 3"


def test_space_at_the_ends_of_lines_stays_where_it_belongs_to_a_string():
    code = 'def f():\r\n    return """a  \r\nb\t\r\n"""\r\n'
    record = read({"prompt": "Say it.", "code": code, "tests": ["assert f() == 'a  \\nb\\t\\n'"]})
    assert record.target["code"] == code.replace("\r\n", "\n").strip("\n")
    assert score([record], [record.target["code"]]).value == 1.0


def test_cpu_seconds_judge_long_before_the_clock():
    from tunesmith.tasks.code_generation import _LIMITS

    assert _LIMITS.seconds >= 5 * _LIMITS.cpu_seconds


@pytest.mark.parametrize(
    "text",
    [
        "```python3\nx = 1\n```\nThis gives x.",
        "Sure:\n\n``` python\nx = 1\n```",
        "Sure:\r\n```py\r\nx = 1\r\n```\r\nBye",
        "Install:\n```bash\npip install x\n```\nthen\n```Python\nx = 1\n```",
        "1. So:\n   ```{.python}\n   x = 1\n   ```\n2. Done",
        "~~~~ python title='a'\nx = 1\n~~~~",
    ],
)
def test_the_program_is_found_within_prose(text):
    assert code_of(text) == "x = 1"


def test_marks_in_a_docstring_are_no_fence():
    code = 'def f():\n    """Give one.\n\n    ```python\n    f()\n    ```\n    """\n    return 1'
    assert code_of(code) == code
    assert code_of(f"Here:\n```python\n{code}\n```\nBye") == code
    assert code_of("```python\n```") == ""


@pytest.mark.parametrize("code", ["def f():\n    return 1", "    return a + b"])
def test_marks_that_only_close_end_the_program(code):
    assert code_of(f"{code}\n```\nThis is how.") == code
    assert code_of(f"{code}\n```\n\nSo:\n```python\nf()\n```") == code


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"tests": []}, "empty-tests"), ({"tests": [""]}, "empty-tests"), ({"code": " "}, "empty-code")],
)
def test_rows_without_code_or_tests_are_refused(change, kind):
    with pytest.raises(Fault) as caught:
        read({**ADD, **change})
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"code": "print 'a'"}, "syntax-error"),
        ({"code": "(" * 3000}, "syntax-error"),
        ({"tests": ["add(1, 2)"]}, "no-assert"),
    ],
)
def test_odd_rows_are_used_and_remarked_on(change, kind):
    cells = Cells({**ADD, **change})
    TASK.read_target(cells, TASK.read_input(cells))
    assert [note.kind for note in cells.notes] == [kind]


def test_programs_are_right_when_all_tests_pass():
    row = {**ADD, "tests": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]}
    record, *others = [read(row, number) for number in range(4)]
    good = "```python\ndef add(x, y):\n    return y + x\n```\nThis adds."
    scores = score(
        [record, *others], [good, "def add(a, b):\n    return 3", "def add(a, b) return", "def sub(a): return 1"]
    )
    assert scores.value == 0.25
    assert scores.details["verdicts"] == {"error": 2, "passed": 1, "failed": 1}
    assert scores.details["references_failing"] == 0
    assert scores.values["exact_match"] == 0.0
    assert "SyntaxError" in " ".join(sample["why"] for sample in scores.details["samples"])
    assert TASK.is_right(record, good)
    assert not TASK.is_right(record, "")


def test_what_the_tests_need_runs_and_references_that_fail_are_counted():
    setup = read({**ADD, "test_setup_code": "two = add(1, 1)", "tests": ["assert add(two, 1) == 3"]})
    wrong = read({**ADD, "tests": ["assert add(1, 2) == 4"]}, 2)
    scores = score([setup, wrong], [setup.target["code"], wrong.target["code"]])
    assert scores.value == 0.5
    assert scores.values["exact_match"] == 1.0
    assert (scores.details["references_failing"], scores.details["failing_rows"]) == (1, ["rows.jsonl:2"])


def test_prompts_that_begin_the_program_are_written_on():
    record = read(HUMAN)
    whole = "def add(a, b):\n    return b + a"
    assert score([record] * 4, ["return a + b", "    return a + b", whole, "return a"]).value == 0.75


def test_pass_at_k_is_estimated_from_all_tries():
    record = read(ADD)
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return 0"
    values = (right, *[wrong] * 9), (wrong,) * 10
    scores = score([record, record], values)
    assert scores.values["pass_at_1"] == pytest.approx(0.05)
    assert scores.values["pass_at_5"] == pytest.approx(0.25)
    assert scores.values["pass_at_10"] == pytest.approx(0.5)
    assert scores.details["tries"] == 10
    found = TASK.difference([record] * 2, list(values), [right, wrong], metric="pass_at_1", seed=0)
    assert found.value == pytest.approx(0.05 - 0.5)


def test_several_programs_are_drawn_where_they_are_to_be_measured(folder):
    tokenizer, model = build_tokenizer(folder), build_model(folder, "AutoModelForCausalLM")
    task = TASK.configured({"do_sample": True, "max_new_tokens": 6})
    for known, kind in ((True, tuple), (False, str)):
        examples = task.encode([read(ADD, known=known)], tokenizer, labels=(), max_length=128)
        ((value, _, _),) = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
        assert isinstance(value, kind)
        if known:
            assert len(value) == SAMPLES
            assert len(set(value)) > 1


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tests": "assert set(similar((3, 4), (5, 4))) == set((4, 5))"}, "similar"),
        ({"tests": "assert math.isclose(area(5), 4)"}, "area"),
        ({"tests": "assert not is_prime(4)"}, "is_prime"),
        ({"entry_point": "run", "tests": "assert go(1)"}, "run"),
        ({}, ""),
    ],
)
def test_the_asked_name_is_found(fields, name):
    assert asked_name(fields) == name


def test_code_is_taken_out_of_its_fence_and_renamed():
    assert code_of("Sure:\n```python\nx = 1\n\n```\nBye") == "x = 1"
    assert code_of("\nx = 1\n") == "x = 1"
    assert code_of("```\nx = 1") == "x = 1"
    code = "def help(n): return n\ndef fact(n): return n * fact(n - 1)"
    assert renamed(code, {"tests": "assert f(1) == 1"}) == "def help(n): return n\ndef f(n): return n * f(n - 1)"
    assert renamed(code, {"tests": "assert help(1) == 1"}) == code
    assert renamed("x = 1", {"tests": "assert f(1)"}) == "x = 1"


def test_the_baseline_gives_the_nearest_code_under_the_asked_name():
    train = (
        read(ADD),
        read({**ADD, "prompt": "Find the longest word.", "code": "def w(t): return max(t, key=len)"}, 2),
    )
    test = (read({**ADD, "prompt": "Sum of two numbers.", "tests": ["assert plus(1, 1) == 2"]}, 3),)
    (baseline,) = TASK.baselines(Splits(train, (), test, ""), labels=(), seed=0)
    assert baseline.name == "nearest"
    assert score(test, [value for value, _, _ in baseline.answers]).value == 1.0


def test_an_untuned_model_is_cut_after_its_program(folder):
    from tunesmith.tasks.code_generation import _first_program

    text = "def f(a):\n    return a\n\nprint(f(1))\nassert f(1)"
    assert _first_program(text) == "def f(a):\n    return a"
    assert _first_program("just words") == "just words"


@pytest.mark.slow
def test_64_programs_are_learnt_by_heart(folder):
    tokenizer, model = build_tokenizer(folder), build_model(folder, "AutoModelForCausalLM")
    generator = np.random.default_rng(0)
    numbers = generator.permutation(900)[:64] + 100
    names = ["".join(generator.choice(list("abcdefgh"), size=4)) for _ in range(64)]
    rows = [
        {"prompt": name, "code": f"def f():\n    return {number}", "tests": ["assert True", f"assert f() == {number}"]}
        for name, number in zip(names, numbers, strict=True)
    ]
    records = [read(row, place) for place, row in enumerate(rows)]
    examples = TASK.encode(records, tokenizer, labels=(), max_length=128)
    learn_by_heart(TASK, model, examples, tokenizer, steps=300)
    task = TASK.configured({"max_new_tokens": 24})
    answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert task.score(records, answers, labels=(), main="pass_at_1", seed=0).value > 0.95
