"""Programs from a description: right is what passes the tests, run in a locked-down process (`sandbox.py`).

The model is shown the description and the first test, which tells the name to define and how it is called; the other
tests stay hidden from it. (Austin et al. 2021 show all three tests of MBPP; a model can then write the answers down.)
Scores here are therefore a little lower than with their prompt.

Letters: N records, S statistics of a row.

Source: Austin et al. 2021 (MBPP); Chen et al. 2021 (pass@k without bias; HumanEval, whose prompts are written on).
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import re
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.metrics import Floats, texts
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.generation import Generation
from tunesmith.tasks.nearest import nearest_places
from tunesmith.tasks.sandbox import Limits, Verdict, run_tests
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    from torch import nn

SAMPLES = 10
"""Programs that are tried for each problem where they are drawn by chance (do_sample)."""

_KS = (1, 5, 10)
# CPU seconds judge, so that scores are the same on a busy machine; the clock only ends programs that wait.
_LIMITS = Limits(seconds=20.0, cpu_seconds=4)
_WORKERS = 2
# Opening marks with the name of a language, the text, and closing marks as far in and as many as the opening ones.
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*)\n(.*?)(?:^\1\2[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"\W*(?:py|python|python3|py3|ipython|pycon)\b", re.IGNORECASE)
_DEFINITION = re.compile(r"^(?:async )?def ([A-Za-z_]\w*)", re.MULTILINE)
_CALL = re.compile(r"([A-Za-z_][\w.]*)\s*\(")
_AFTER_CODE = re.compile(r"\n(?=\"\"\"|'''|#|print\b|assert\b|if __name__|Your code|Write a )")
_SURFACE = 24  # statistics of chrF and of equal texts


@dataclass(frozen=True)
class CodeGeneration(Generation):
    """Write a Python program that passes the tests."""

    name: ClassVar[str] = "code-generation"
    forms: ClassVar[Sequence[Form]] = (
        Form({"prompt": "text", "tests": "any"}, {"code": "text"}, {"test_setup_code": "text", "entry_point": "text"}),
        # Where nothing is to be learnt a description is enough.
        Form({"prompt": "text"}, {"code": "text", "tests": "any"}, {"test_setup_code": "text", "entry_point": "text"}),
    )
    main: ClassVar[str] = "pass_at_1"
    metrics: ClassVar[tuple[str, ...]] = ("pass_at_1", "exact_match", "chrf")
    pipeline: ClassVar[str] = "text-generation"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the description, the first test, and what the code is called by, where the row says it."""
        fields = {"prompt": _tidy(cells.text("prompt"))}
        if cells.has("tests"):
            name = cells.label("entry_point") if cells.has("entry_point") else ""
            # The first alone: the others, which may stand in the same text, are hidden from the model.
            fields["tests"] = _first_test(_tidy(cells.texts("tests")[0]), name)
        if cells.has("entry_point"):
            fields["entry_point"] = cells.label("entry_point")
        return fields

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the reference program, the tests, and what has to run before them."""
        code = _tidy(cells.text("code"))
        tests = [_tidy(test) for test in cells.texts("tests")]
        if fault := _syntax_fault(_program(fields, code)):
            cells.note("syntax-error", f"the code is no Python 3: {fault}", "mend it, or the model learns the mistake")
        if not any("assert" in test or "raise" in test for test in tests):
            what = "no test asserts anything: every program that ends passes"
            cells.note("no-assert", what, "write tests such as: assert f(1) == 2")
        setup = _tidy(cells.text("test_setup_code")) if cells.has("test_setup_code") else ""
        return {"code": code, "tests": tests, "setup": setup}

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the description with the first test; a prompt that begins the program (HumanEval) stands as it is."""
        if _begins_program(fields) or not fields.get("tests"):
            return f"{fields['prompt']}\n"
        return f"{fields['prompt']}\nYour code should pass this test:\n{fields['tests']}\n\n"

    def references(self, target: Any) -> list[str]:
        """Give the reference program."""
        return [str(target["code"])]

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give a program for each record; several, as a tuple, where they are drawn by chance to be measured."""
        settings = {"tokenizer": tokenizer, "batch_tokens": batch_tokens}
        found = super().answer(model, examples, labels=labels, **settings)
        is_known = all(example.record is not None and example.record.target is not None for example in examples)
        if not (self.do_sample and is_known):
            return found
        draws = [self.write(model, examples, **settings, draw=draw) for draw in range(1, SAMPLES)]
        return [
            ((value, *(draw[row].text for draw in draws)), confidence, alternatives)
            for row, (value, confidence, alternatives) in enumerate(found)
        ]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Let the base model write as it came, up to where something other than the program begins.

        An untuned model does not know where to end; so every published score cuts its text.
        """
        found = super().zero_shot(load, tokenizer, records, labels=labels, max_length=max_length)
        if found is None:
            return None
        return [(_each(value, _first_program), confidence, rest) for value, confidence, rest in found]

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the program passes every test (the first one, where several were drawn)."""
        return _verdict(*_job(record, _tries(value)[0])).passed

    def text_statistics(self, records: Sequence[Record], values: Sequence[Any]) -> Floats:
        """Run every program; give pass@k for each k, 1 for the row, and counts of the first program's text (N, S)."""
        tries = [_tries(value) for value in values]
        verdicts = iter(
            _verdicts([_job(record, one) for record, each in zip(records, tries, strict=True) for one in each])
        )
        right = [sum(next(verdicts).passed for _ in each) for each in tries]
        most = min((len(each) for each in tries), default=1)
        passed = texts.pass_statistics([len(each) for each in tries], right, [k for k in _KS if k <= most])
        references = [self.references(record.target) for record in records]
        firsts = [code_of(each[0]) for each in tries]
        surface = texts.chrf_statistics(references, firsts), texts.surface_statistics(references, firsts)
        return np.concatenate([passed, *surface], axis=1)

    def text_values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give pass@k, exact match and chrF."""
        passed, surface = sums[..., :-_SURFACE], sums[..., -_SURFACE:]
        found = texts.pass_values(passed, _KS[: passed.shape[-1] - 1])
        return {
            **found,
            "exact_match": texts.surface_values(surface[..., 18:])["exact_match"],
            **texts.chrf_values(surface[..., :18]),
        }

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score the programs by their tests; in details why programs failed, and whether the references pass."""
        values = [value for value, _, _ in answers]
        statistics_NS = self.text_statistics(records, values)
        scores = metrics.summed_scores(statistics_NS, self.text_values, main=main, seed=seed)
        firsts: list[Answered] = [(_tries(value)[0], None, {}) for value in values]
        verdicts = _verdicts([_job(record, value) for record, (value, _, _) in zip(records, firsts, strict=True)])
        why = {str(record.origin): verdict for record, verdict in zip(records, verdicts, strict=True)}
        samples = [
            {**sample, "why": f"{why[sample['row']].reason}\n{why[sample['row']].text}".strip()[-500:]}
            for sample in self._samples(records, firsts, statistics_NS, main)
        ]
        references = _verdicts([_job(record, record.target["code"]) for record in records])
        failing = [str(record.origin) for record, found in zip(records, references, strict=True) if not found.passed]
        details = {
            "samples": samples,
            "verdicts": dict(Counter(verdict.reason for verdict in verdicts).most_common()),
            "references_failing": len(failing),
            "failing_rows": failing[:20],
            "tries": max((len(_tries(value)) for value in values), default=1),
        }
        return dataclasses.replace(scores, details=details)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of programs on the same problems by a paired bootstrap; drawn ones by all their tries."""
        mine, theirs = self.text_statistics(records, first), self.text_statistics(records, second)
        width = min(mine.shape[1], theirs.shape[1])  # greedy answers have pass@1 only
        mine, theirs = (np.delete(each, range(1, 1 + each.shape[1] - width), axis=1) for each in (mine, theirs))
        return metrics.summed_difference(mine, theirs, self.text_values, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Give the code of the most similar training description, under the name that the test calls."""
        start = time.perf_counter()
        known = [str(record.fields["prompt"]) for record in splits.train]
        places = nearest_places(known, [str(record.fields["prompt"]) for record in splits.test])
        answers: list[Answered] = [
            (renamed(splits.train[place].target["code"], record.fields), None, {})
            for place, record in zip(places, splits.test, strict=True)
        ]
        return [Baseline("nearest", answers, time.perf_counter() - start)]


def code_of(text: str) -> str:
    """Give the program in a text: all of it where it is Python, else what stands between its ``` marks.

    Of several pieces the first that is marked as Python counts, else the first without the name of a language.
    """
    text = _plain_ends(text)
    found = list(_FENCE.finditer(text))
    # A docstring may show marks too; outside of strings they are no Python.
    if not found or not _syntax_fault(text):
        return text.strip("\n")
    before = text[: found[0].start()]
    # A model that goes on within marks writes only the closing ones.
    if _DEFINITION.search(before) and not _syntax_fault(before):
        return before.strip("\n")
    if before[:1].isspace() and "return" in before and not _syntax_fault(f"if True:\n{before}"):
        return before.strip("\n")
    marked = next((piece for piece in found if _PYTHON.match(piece[3])), None)
    chosen = marked or next((piece for piece in found if not piece[3].strip()), found[0])
    return (textwrap.dedent(chosen[4]) if chosen[1] else chosen[4]).strip("\n")


def asked_name(fields: Mapping[str, Any]) -> str:
    """Give the name that the code has to define: the entry point, else the first in the test that Python lacks."""
    if fields.get("entry_point"):
        return str(fields["entry_point"])
    names = (str(name) for name in _CALL.findall(str(fields.get("tests", ""))))
    return next((name for name in names if "." not in name and name != "assert" and not hasattr(builtins, name)), "")


def renamed(code: str, fields: Mapping[str, Any]) -> str:
    """Give the code with its last function called as the test calls it."""
    defined, wanted = _DEFINITION.findall(code), asked_name(fields)
    if not defined or not wanted or wanted in defined:
        return code
    return re.sub(rf"\b{re.escape(defined[-1])}\b", wanted, code)


def _first_test(text: str, entry_point: str) -> str:
    """Give the first assert of a test, wherever it stands; without one, its first statement that is no import.

    In a function that tests what it is given (HumanEval's `check(candidate)`), it is shown with the asked name.
    """
    if _syntax_fault(text):
        found = re.search(r"^[ \t]*assert\b.*", text, re.MULTILINE)
        return found[0].strip() if found else text.split("\n")[0]
    program = ast.parse(text)
    asserts = [node for node in ast.walk(program) if isinstance(node, ast.Assert)]
    if not asserts:
        rest = [node for node in program.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        return ast.get_source_segment(text, rest[0]) or text if rest else text
    first = min(asserts, key=lambda node: (node.lineno, node.col_offset))
    shown = ast.get_source_segment(text, first) or text
    for node in ast.walk(program):
        is_around = isinstance(node, ast.FunctionDef) and first in ast.walk(node)
        if entry_point and is_around and isinstance(node, ast.FunctionDef) and len(node.args.args) == 1:
            shown = re.sub(rf"\b{re.escape(node.args.args[0].arg)}\b", entry_point, shown)
    return shown


def _tidy(text: str) -> str:
    """Give code or prose with plain line ends, and without space at the ends of lines where no string spans lines."""
    text = _plain_ends(text)
    # Python itself reads every line end as a plain one, also in strings; but space before it belongs to the string.
    if '"""' not in text and "'''" not in text and "\\\n" not in text:
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    return text.strip("\n")


def _plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _begins_program(fields: Mapping[str, Any]) -> bool:
    name = fields.get("entry_point")
    return bool(name) and re.search(rf"^def {re.escape(str(name))}\b", str(fields["prompt"]), re.MULTILINE) is not None


def _program(fields: Mapping[str, Any], code: str) -> str:
    """Give the whole program: what a prompt begins is written on, unless the answer begins anew."""
    code = code_of(code)
    if not _begins_program(fields) or re.search(rf"^def {re.escape(str(fields['entry_point']))}\b", code, re.MULTILINE):
        return code
    # The space before the first line is lost where texts are trimmed; a body has to be indented.
    body = code if code[:1].isspace() else f"    {code}"
    return f"{fields['prompt']}\n{body}"


def _job(record: Record, answer: str) -> tuple[str, tuple[str, ...]]:
    """Give what is run: the program, and the tests with what they need."""
    target = record.target
    tests = list(target["tests"])
    name = record.fields.get("entry_point")
    if name and any("def check(" in test for test in tests):  # HumanEval's tests define a function that tests
        tests.append(f"check({name})")
    setup = [target["setup"]] if target.get("setup") else []
    return _program(record.fields, answer), (*setup, *tests)


@functools.lru_cache(maxsize=20_000)
def _verdict(code: str, tests: tuple[str, ...]) -> Verdict:
    """Run one program; what was run is remembered, because scores and differences ask for the same programs."""
    return run_tests(code, tests, limits=_LIMITS)


def _verdicts(jobs: Sequence[tuple[str, tuple[str, ...]]]) -> list[Verdict]:
    """Run programs, two processes at once; each different one once."""
    different = list(dict.fromkeys(jobs))
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="sandbox") as pool:
        found = dict(zip(different, pool.map(lambda job: _verdict(*job), different), strict=True))
    return [found[job] for job in jobs]


def _tries(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _each(value: Any, change: Any) -> Any:
    return change(value) if isinstance(value, str) else tuple(map(change, value))


def _first_program(text: str) -> str:
    """Give a text up to where, at the start of a line, something begins that is no part of the asked program."""
    code = code_of(text)
    return _AFTER_CODE.split(code)[0].rstrip() if _DEFINITION.search(code) or code[:1].isspace() else code


def _syntax_fault(code: str) -> str:
    """Give what Python's parser has against the code; nothing if it is fine. The code is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)[:100]
    return ""


TASK = CodeGeneration()
