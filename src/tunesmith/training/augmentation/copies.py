"""From a recipe's `augment` to copies of the training rows, made once and before the plan.

Nothing else of a run knows them: the user's own rows stay in `Intake.splits`, which baselines, validation and test are
about; the copies stand in `Intake.made` and are only learnt from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.data.augment.entries import AUGMENT, BACK_TRANSLATE, MIXUP, Entry, read_entries, with_paths
from tunesmith.data.augment.making import Made, Maker, edit_maker, make_rows
from tunesmith.data.augment.synonym_table import read_table
from tunesmith.data.augment.words import Cut, find_cut
from tunesmith.errors import PlanProblem
from tunesmith.methods import Method, is_trained
from tunesmith.models.find import Base
from tunesmith.tasks import Task
from tunesmith.training.augmentation.back_translation import back_translator
from tunesmith.training.augmentation.kept import read_made
from tunesmith.training.augmentation.masked_words import masked_words
from tunesmith.training.intake import Intake
from tunesmith.training.recipe import Recipe
from tunesmith.types import Augmentation, Record

_SHOWN = 60  # characters of a text in a remark
_LOOKED_AT = 200  # rows that tell whether there is Chinese


def copied(
    recipe: Recipe, intake: Intake, task: Task, *, base: Base, tokenizer: Any, device: str, kept: Path | None
) -> Made:
    """Make the copies that a recipe asks for; none where it asks for none.

    Args:
        recipe: What was asked for.
        intake: The rows, dealt as the method wants them.
        task: As the recipe has it, not as the method asks it: it says which texts may be changed.
        base: Its masked-language-model head gives synonyms where no table does.
        tokenizer: Of the base model.
        device: Where that model runs.
        kept: Where an earlier start of this run has kept its copies.

    Raises:
        PlanProblem: The task or the base model cannot bear it, or a run to translate with is no translation run.
        DataProblem: The table of synonyms cannot be used.
    """
    entries = read_entries(recipe.augment)
    made = None if kept is None else read_made(kept, intake.splits.train)
    if made is not None or not any(entry.kind != MIXUP for entry in entries):
        return made or Made((), tuple(_account(entry) for entry in entries))
    fields = _demand_fields(task, entries)
    cut = find_cut()
    makers = [_maker(entry, fields, base=base, tokenizer=tokenizer, device=device, cut=cut) for entry in entries]
    found = make_rows(entries, makers, intake.splits, seed=recipe.seed, fields=fields, group_of=task.group_of)
    return Made(found.rows, tuple(_named(each) for each in found.account))


def _account(entry: Entry) -> Augmentation:
    return _named(Augmentation(entry.kind, dict(entry.settings), 0, {}))


def _named(account: Augmentation) -> Augmentation:
    """Give the account with files by name: what they hold shows in the copies, and folders move."""
    (named,) = read_entries(with_paths({account.kind: account.settings}, lambda path: Path(path).name))
    return dataclasses.replace(account, settings=dict(named.settings))


def _maker(
    entry: Entry, fields: Sequence[str], *, base: Base, tokenizer: Any, device: str, cut: Cut | None
) -> Maker | None:
    if entry.kind == MIXUP:
        return None
    if entry.kind == BACK_TRANSLATE:
        return back_translator(entry, fields)
    if entry.kind != "synonyms":
        return edit_maker(entry, fields, cut=cut)
    if entry.settings["table"]:
        return edit_maker(entry, fields, cut=cut, table=read_table(str(entry.settings["table"])))
    return masked_words(entry, fields, base=base, tokenizer=tokenizer, device=device, cut=cut)


def _demand_fields(task: Task, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Give the texts of the task that may be changed.

    Raises:
        PlanProblem: There are none, or entities in them would lose their places.
    """
    fields: tuple[str, ...] = getattr(task, "augmented_fields", ())
    if not fields:
        raise PlanProblem(
            f"task {task.name} cannot learn from copies with other words: its answers stand in its texts, are "
            "themselves texts, or hang on single words",
            where=AUGMENT,
            do="leave augment out",
        )
    if getattr(task, "holds_places", False) and any(entry.kind == BACK_TRANSLATE for entry in entries):
        raise PlanProblem(
            f"task {task.name} cannot learn from texts that were translated there and back: nobody knows where in "
            "them the entities stand",
            where=AUGMENT,
            do="use synonyms, delete or swap, which leave entities as they are",
        )
    return fields


def demand_learner(recipe: Recipe, method: Method) -> None:
    """Refuse augmentation for methods that it does nothing for.

    Raises:
        PlanProblem: Nothing is trained, or the method makes tasks of its own out of the rows.
    """
    if not read_entries(recipe.augment):
        return
    do = "leave augment out, or choose another method; `tunesmith methods` lists them"
    if not is_trained(method):
        raise PlanProblem(
            f"augment gives training more rows, and method '{recipe.method}' trains nothing", where=AUGMENT, do=do
        )
    if hasattr(method, "deal"):
        raise PlanProblem(
            f"method '{recipe.method}' asks for rows by others of their label, and a row's own copy would answer",
            where=AUGMENT,
            do=do,
        )


def copy_remarks(made: Made, records: Sequence[Record], fields: Sequence[str]) -> list[str]:
    """Say in sentences what each kind made, what it left out, and what a copy looks like."""
    said = []
    for each in made.account:
        if each.kind == MIXUP:
            settings = ", ".join(f"{name} {value}" for name, value in each.settings.items())
            said.append(f"augment mixup: texts are mixed in every step of training ({settings})")
            continue
        gone = "; ".join(f"{count:,} left out: {why}" for why, count in each.left_out.items())
        said.append(f"augment {each.kind}: {each.rows:,} copies of training rows" + (f" ({gone})" if gone else ""))
        said += [f"e.g. {_shown(before, after)}" for before, after in each.samples[:1]]
    has_cjk = any(
        "\u3040" <= character <= "\u9fff"
        for record in records[:_LOOKED_AT]
        for name in fields
        for character in str(record.fields.get(name, ""))
    )
    cuts = any(each.rows and each.kind != BACK_TRANSLATE and not each.settings.get("table") for each in made.account)
    if has_cjk and cuts and find_cut() is None:
        said.append("augment takes each Chinese character for a word; with jieba installed (pip install jieba), words")
    return said


def _shown(before: str, after: str) -> str:
    """Give both texts on one line, cut around where they begin to differ."""
    one, other = (" ".join(text.split()) for text in (before, after))
    pairs = enumerate(zip(one, other, strict=False))
    alike = next((at for at, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))
    start = max(0, min(alike - _SHOWN // 3, max(len(one), len(other)) - _SHOWN))
    return f"'{_cut(one, start)}' -> '{_cut(other, start)}'"


def _cut(line: str, start: int) -> str:
    shown = line[start : start + _SHOWN]
    return ("…" if start else "") + shown + ("…" if start + _SHOWN < len(line) else "")
