"""What the methods share that put a task into words: which way of asking, with which templates and label words.

`resolve` decides all of it before the plan, from the labels' names, the script of the texts and what the base model was
pretrained for; `task_of` makes the asked task from what was decided, when a run is prepared and when it is loaded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import PlanProblem, TunesmithError, nearest_first
from tunesmith.methods import Known
from tunesmith.models.anatomy import Anatomy, find_anatomy
from tunesmith.tasks import Task
from tunesmith.tasks.prompting import defaults
from tunesmith.tasks.prompting.asked import AskedTask, Wordings, as_task
from tunesmith.tasks.prompting.cloze import MODEL_CLASS, Cloze, word_ids
from tunesmith.tasks.prompting.defaults import CLOZE, EMBEDDING, ENTAILMENT, LIKELIHOOD, WAYS
from tunesmith.tasks.prompting.entailment import Entailment, inference_places, match_pair_labels
from tunesmith.tasks.prompting.label_words import (
    AUTO,
    NAMES,
    SEARCH,
    Words,
    demand_distinct,
    is_code,
    name_words,
    read_label_words,
)
from tunesmith.tasks.prompting.likelihood import Likelihood, word_tokens
from tunesmith.tasks.prompting.likeness import Likeness
from tunesmith.tasks.prompting.templates import BETWEEN, LABEL, Template, demand_offsets, read_templates
from tunesmith.tasks.prompting.word_search import search_words
from tunesmith.tasks.text_classification import is_mostly_cjk
from tunesmith.tasks.text_pair import alike_place
from tunesmith.tasks.wording import Wording, base_class

TASKS = ("text-classification", "text-pair", "multi-label-classification")
_PAIR = "text-pair"
_ROWS_SEEN = 500  # that tell the language
_KINDS: Mapping[str, type[AskedTask]] = {CLOZE: Cloze, ENTAILMENT: Entailment, EMBEDDING: Likeness}
_MASKED = re.compile(r"ForMaskedLM$|^BertForPreTraining$|^RobertaForPreTraining$")
_MEANING = "say what each label means: --set label_words=label=word|word,label=word"


def no_such_task(task: str) -> str | None:
    """Give the reason why a task cannot be put into words; None where it can."""
    if task in TASKS:
        return None
    return f"labels are asked for by their words, which suits {', '.join(TASKS)}, and this task is {task}"


def is_masked(config: Any) -> bool:
    """Whether the base model says that it was pretrained to fill in what is masked."""
    return any(_MASKED.search(str(name)) for name in getattr(config, "architectures", None) or ())


def choose_way(wanted: str, known: Known) -> str:
    """Give the way of asking that the base model was made for: as asked, else the one told by its architecture.

    Raises:
        PlanProblem: There is no such way, or the base model has none.
    """
    if wanted not in {AUTO, *WAYS}:
        raise PlanProblem(
            f"asked_by is '{wanted}'", where="asked_by", do=f"use one of: auto, {nearest_first(wanted, WAYS)}"
        )
    if wanted != AUTO:
        _demand_way(wanted, known)
        return wanted
    if _judges(known):
        return ENTAILMENT
    if is_masked(known.config) and known.tokenizer.mask_token is not None:
        return CLOZE
    if base_class(known.config) == "AutoModelForCausalLM":
        return LIKELIHOOD
    _demand_way(EMBEDDING, known)
    return EMBEDDING


def _judges(known: Known) -> bool:
    names = getattr(known.config, "architectures", None) or ()
    is_judge = any(str(name).endswith("ForSequenceClassification") for name in names)
    return is_judge and bool(inference_places(known.config))


def _demand_way(way: str, known: Known) -> None:
    """Refuse a way of asking for which the base model has nothing.

    Raises:
        PlanProblem: It has no head for it.
    """
    is_causal = base_class(known.config) == "AutoModelForCausalLM"
    is_encoder = not is_causal and not getattr(known.config, "is_encoder_decoder", False)
    lacks = {
        CLOZE: "" if is_encoder and known.tokenizer.mask_token is not None else "it does not fill in masked words",
        ENTAILMENT: "" if _judges(known) else "it has no head that knows entailment",
        LIKELIHOOD: "" if is_causal else "it does not write from left to right",
        EMBEDDING: "" if is_encoder else "it is no encoder",
    }[way]
    if lacks:
        kind = getattr(known.config, "model_type", "")
        raise PlanProblem(
            f"a base model of kind '{kind}' cannot be asked by {way}: {lacks}",
            where="asked_by",
            do="leave asked_by out, or give a base model that can (--model)",
        )


def resolve(options: Mapping[str, Any], known: Known, way: str, *, may_search: bool = False) -> dict[str, Any]:
    """Give the options with way, templates, words and language decided.

    Args:
        options: `template`, `label_words` and `correct_prior` as the recipe has them, and what else the method has.
        known: What they are decided by.
        way: How the base model is asked.
        may_search: Whether training rows may be looked at for words.

    Raises:
        PlanProblem: A template or word does not suit the task or the base model, or labels say nothing.
    """
    is_pair = known.task.name == _PAIR
    if is_pair and way != EMBEDDING and getattr(known.task, "encoder", "cross") == "bi":
        what = "texts that are encoded apart cannot be put into one question"
        raise PlanProblem(what, where="encoder", do="leave encoder out, or use another method")
    if way in {CLOZE, ENTAILMENT}:
        demand_offsets(known.tokenizer)
    seen = [known.task.text_of(row.fields) for row in itertools.islice(known.rows, _ROWS_SEEN)]
    language = "zh" if is_mostly_cjk(seen) else "en"
    kind = defaults.kind_of(known.labels, is_pair=is_pair)
    needs_none = is_pair and way in {ENTAILMENT, EMBEDDING}  # the two texts are the question
    templates = [] if needs_none else _templates(str(options["template"]), way, language, kind, known)
    if needs_none:
        words = _pair_words(way, known)
    else:
        words = _words(str(options["label_words"]), templates, way, (language, kind), known, may_search=may_search)
    demand_distinct(words)
    return {
        **options,
        "asked_by": way,
        "template": f" {BETWEEN} ".join(template.text for template in templates),
        "label_words": words,
        "asked_in": language,
    }


def _templates(given: str, way: str, language: str, kind: str, known: Known) -> list[Template]:
    roles = list(known.task.forms[0].inputs) if way in {CLOZE, LIKELIHOOD} else []
    found = given.strip() or f" {BETWEEN} ".join(defaults.templates_for(way, language, kind))
    return read_templates(found, [*roles, LABEL], is_label_last=way == LIKELIHOOD)


def _pair_words(way: str, known: Known) -> Words:
    """Give the words of pairs that are judged as they are.

    Raises:
        PlanProblem: The labels' names do not tell what they mean to the base model.
    """
    if way == EMBEDDING:
        if alike_place(known.labels) is None:
            what = "two texts are compared by one number, and the labels' names do not tell which of them means alike"
            raise PlanProblem(what, where="label", do="call the two labels yes and no, or give another base model")
        return name_words(known.labels)
    found = match_pair_labels(known.labels, known.config)
    if found is None:
        theirs = ", ".join(map(str, dict(known.config.id2label).values()))
        what = f"the labels of the pairs do not match those of the base model, which are: {theirs}"
        raise PlanProblem(what, where="label", do="call the labels so, or use another method")
    return found


def _words(
    given: str,
    templates: Sequence[Template],
    way: str,
    about: tuple[str, str],
    known: Known,
    *,
    may_search: bool,
) -> Words:
    """Give the words of every label: as asked, else those known for such labels, else the names, else found in rows."""
    if given == SEARCH:
        if not may_search:
            what = "words can be searched for only where rows may be learnt from"
            raise PlanProblem(what, where="label_words", do=_MEANING)
        return _searched(templates[0], known)
    if given not in {AUTO, NAMES}:
        words = read_label_words(given, known.labels)
        _demand_known(words, templates, way, known.tokenizer)
        return words
    candidates = [defaults.known_words(known.labels, *about) if given == AUTO else None]
    has_codes = [label for label in known.labels if is_code(label)]
    candidates.append(None if has_codes and given == AUTO else name_words(known.labels))
    problem: TunesmithError | None = None
    for words in filter(None, candidates):
        try:
            _demand_known(words, templates, way, known.tokenizer)
        except TunesmithError as error:
            problem = error
            continue
        return words
    if may_search and given == AUTO:
        return _searched(templates[0], known)
    if problem is not None:
        raise problem
    raise PlanProblem(f"the label '{has_codes[0]}' says nothing of what it means", where="label_words", do=_MEANING)


def _demand_known(words: Words, templates: Sequence[Template], way: str, tokenizer: Any) -> None:
    """Refuse words that the base model does not know, where it is asked for the words themselves."""
    if way == CLOZE:
        for template in templates:
            for each in words.values():
                for word in each:
                    word_ids(word, template, tokenizer)
    elif way == LIKELIHOOD:
        for template in templates:
            word_tokens(words, template, Wording(tokenizer))


def _searched(template: Template, known: Known) -> Words:
    """Search the training rows for words."""
    model = known.load(MODEL_CLASS)
    if lacking := no_head(find_anatomy(model, has_fresh_head=False)):
        raise PlanProblem(lacking, where="model", do=NO_HEAD_DO)
    owned = [known.task.labels_of(row.target) for row in known.rows]
    return search_words(model, known.tokenizer, template, known.rows, labels=known.labels, owned=owned)


NO_HEAD_DO = "give a base model with one, e.g. bert-base-uncased, or one made by: tunesmith pretrain --objective mlm"


def no_head(anatomy: Anatomy) -> str | None:
    """Give the reason why a masked language model cannot be asked: its head was drawn; None where it came along."""
    drawn = [name for name in anatomy.drawn if not name.startswith(f"{anatomy.body_name}.")]
    if not anatomy.kind.endswith("ForMaskedLM") or not drawn:
        return None
    return (
        "this base model has no trained masked-language-model head "
        f"(its files lack {', '.join(drawn[:2])}); {NO_HEAD_DO}"
    )


def wordings_of(options: Mapping[str, Any]) -> Wordings:
    """Give what `resolve` decided, as the asked task takes it."""
    text = str(options["template"])
    templates = tuple(Template(part.strip()) for part in text.split(BETWEEN)) if text else ()
    words = {label: list(each) for label, each in options["label_words"].items()}
    return Wordings(templates, words, str(options["asked_in"]), bool(options.get("correct_prior", False)))


def task_of(task: Task, options: Mapping[str, Any], **more: Any) -> Task:
    """Give the task as it is asked; one that cannot be put into words stays as it is, and is declined."""
    if task.name not in TASKS:
        return task
    way = str(options["asked_by"])
    if way == EMBEDDING and task.name == _PAIR:
        return task.configured({"encoder": "bi"})
    kind: Any = {**_KINDS, LIKELIHOOD: Likelihood}[way]
    return as_task(kind(task, wordings_of(options), **more))
