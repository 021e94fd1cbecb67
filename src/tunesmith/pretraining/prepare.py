"""From a recipe to a pretraining run that is ready to start: corpus, tokenizer, ids, model, plan.

Unlike `train`, this already writes into the run folder: tokenizer and ids have to be there before the plan can say how
many blocks and steps there are. What is killed here goes on by the same command.

runs/wiki/
  recipe.yaml           what was asked           corpus/        tokenizer and ids; removed when the run is through
  plan.json             what was decided         checkpoints/   as in `training.checkpoint`
  ...                   the model's files; manifest.json, the last of them, says that it is whole
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST, TEMPORARY, find_damage, write_file, write_folder, write_json
from tunesmith.errors import BundleProblem, PlanProblem
from tunesmith.models.build import build_model, build_tokenizer, longest_input, quiet, read_config
from tunesmith.models.find import Base, find_base, key_of
from tunesmith.pretraining import OBJECTIVES, SIZES, sizes
from tunesmith.pretraining.corpus import CorpusFile, Survey, open_corpus, survey
from tunesmith.pretraining.job import CORPUS, PretrainJob, demand_one_process, finished
from tunesmith.pretraining.options import PretrainRecipe, read_pretrain_recipe, write_pretrain_recipe
from tunesmith.pretraining.packing import Blocks
from tunesmith.pretraining.plan import choose_max_length, demand_blocks, make_plan
from tunesmith.pretraining.tokens import Tokens, tokenise
from tunesmith.pretraining.vocabulary import plan_vocabulary, train_tokenizer
from tunesmith.pretraining.words import load_segmenter
from tunesmith.training import folder as run_folder
from tunesmith.training.checkpoint import newest_whole
from tunesmith.training.free_cores import thread_count
from tunesmith.training.recipe import AUTO
from tunesmith.types import Plan, from_json

Report = Callable[[str], None]
_RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class _Intake:
    """What the files gave."""

    files: tuple[CorpusFile, ...]
    valid: tuple[CorpusFile, ...]
    survey: Survey


def prepare(recipe: PretrainRecipe, *, is_trial: bool = False, report: Report = lambda text: None) -> PretrainJob:
    """Open the corpus, make tokenizer and ids, and decide the plan.

    Args:
        recipe: What was asked for.
        is_trial: Work in a temporary folder, for a dry run; `job.discard()` removes it.
        report: Told what is being done.

    Raises:
        DataProblem, PlanProblem, ModelProblem, MissingExtra, MachineProblem: As their names say, each with what to do.
    """
    demand_one_process()
    if recipe.masking == "segmented":
        load_segmenter()  # before hours of other work
    intake = _take_in(recipe, report)
    trial = tempfile.TemporaryDirectory(prefix="tunesmith-") if is_trial else None
    folder = Path(trial.name) if trial is not None else _claim(recipe)
    job = _prepare_in(folder, recipe, intake, report)
    job.trial = trial
    return job


def prepare_resume(path: str | Path, *, report: Report = lambda text: None) -> PretrainJob:
    """Make ready to go on with an unfinished run, from the newest checkpoint whose hashes hold.

    Raises:
        BundleProblem: There is no run, it is finished, or its corpus, base model or recipe have changed since.
    """
    folder = Path(path).expanduser()
    if (folder / MANIFEST).is_file():
        raise finished(folder)
    if not (folder / "plan.json").is_file():
        is_begun = (folder / _RECIPE).is_file()
        raise BundleProblem(
            f"there is no run to resume here: {'it was stopped before' if is_begun else 'plan.json is missing'}"
            + (" its plan was made" if is_begun else ""),
            where=str(folder),
            do=f"run the first command again with --out {folder}" if is_begun else "give the folder of a stopped run",
        )
    kept = _read_plan(folder)
    recipe = read_pretrain_recipe(folder / _RECIPE)
    changes: dict[str, Any] = {"threads": kept.threads} if recipe.threads == AUTO else {}
    if recipe.seconds != AUTO:  # the steps were found by timing, which is never the same twice
        changes |= {"seconds": AUTO, "steps": kept.steps}
    recipe = dataclasses.replace(recipe, **changes)
    job = _prepare_in(folder, recipe, _take_in(recipe, report), report)
    job.remarks += _demand_same(kept, job.plan, folder)
    job.plan = kept
    job.resumed_from, passed = newest_whole(folder / unfinished.CHECKPOINTS)
    job.remarks += [f"{sentence}; going back to an older one" for sentence in passed]
    place = "there is no checkpoint to go on from: starting at step 0"
    if job.resumed_from is not None:
        place = f"going on from step {job.resumed_from.step} of {kept.steps}"
    job.remarks.append(place)
    return job


def _claim(recipe: PretrainRecipe) -> Path:
    """Give the run folder: a new one, or one in which the same recipe was stopped before its plan was made."""
    folder = Path(recipe.out).expanduser() if recipe.out else None
    if folder is not None and (folder / _RECIPE).is_file() and not (folder / "plan.json").is_file():
        if (folder / _RECIPE).read_text(encoding="utf-8") != write_pretrain_recipe(recipe):
            raise PlanProblem(
                "the run folder holds a run of another recipe that was stopped early",
                where=str(folder),
                do="run that recipe's command again, or choose another name with --out",
            )
        ours = {_RECIPE, CORPUS, unfinished.LOCK, unfinished.HOLDER}
        if all(each.name in ours or each.name.startswith(TEMPORARY) for each in folder.iterdir()):
            return folder
    return run_folder.new_folder(recipe.out, recipe.corpus[0], "pretrain")


def _take_in(recipe: PretrainRecipe, report: Report) -> _Intake:
    report("opening the corpus")
    files = open_corpus(recipe.corpus, text=recipe.text, documents=recipe.documents)
    given = [recipe.valid] if recipe.valid else []
    valid = open_corpus(given, text=recipe.text, documents=recipe.documents) if given else ()
    report("reading the corpus")
    found = survey(
        files, valid=valid, seed=recipe.seed, valid_share=recipe.valid_share, max_rejected=recipe.max_rejected
    )
    return _Intake(files, valid, found)


def _prepare_in(folder: Path, recipe: PretrainRecipe, intake: _Intake, report: Report) -> PretrainJob:
    """Do all that needs the folder, holding its lock."""
    threads = torch.get_num_threads()
    taken, fewer = thread_count(recipe.threads)
    torch.set_num_threads(taken)  # the price is for these
    if fewer:
        report(fewer)
    try:
        with run_folder.locked(folder):
            if not (folder / _RECIPE).is_file():
                write_file(folder / _RECIPE, write_pretrain_recipe(recipe))
            job = _build(folder, recipe, intake, report)
            if not (folder / "plan.json").is_file():
                write_json(folder / "plan.json", job.plan)
    finally:
        torch.set_num_threads(threads)
    return job


def _build(folder: Path, recipe: PretrainRecipe, intake: _Intake, report: Report) -> PretrainJob:
    module = importlib.import_module(OBJECTIVES[recipe.objective])
    base = find_base(recipe.model) if recipe.model else None
    masking = ("whole-word" if recipe.masking == AUTO else recipe.masking) if recipe.objective == "mlm" else ""
    tokenizer, vocabulary = _tokenizer(folder, recipe, intake, base, report)
    tokens = tokenise(
        intake.files,
        valid=intake.valid,
        held=intake.survey.held,
        tokenizer=tokenizer,
        separator=module.separator(tokenizer),
        is_segmented=masking == "segmented",
        folder=folder / CORPUS,
        report=report,
    )
    limit = None if base is None else longest_input(read_config(base.folder), tokenizer)
    max_length = choose_max_length(recipe, len(tokens.train.ids), limit)
    tokenizer.model_max_length = max_length if recipe.objective != "seq2seq" else max(512, max_length)
    report("building the model")
    model, final_dropout = _model(recipe, base, tokenizer, max_length)
    objective = module.make_objective(
        tokenizer,
        model,
        max_length=max_length,
        share=recipe.mask_share,
        masking_kind=masking,
        span_length=recipe.span_length,
    )
    if recipe.objective == "clm":
        per_token = tokens.valid.characters / max(1, len(tokens.valid.ids))
        objective = dataclasses.replace(objective, characters_per_token=per_token)
    train, valid = Blocks(tokens.train, objective.frame), Blocks(tokens.valid, objective.frame, recipe.valid_blocks)
    demand_blocks(train, valid, intake.files[0].path)
    plan = make_plan(
        recipe,
        objective,
        model,
        train=train,
        valid=valid,
        base=base,
        facts=_facts(intake, tokens, train, valid),
        vocabulary={**vocabulary, "masking": masking, "max_length": max_length},
    )
    gc.collect()
    job = PretrainJob(recipe, plan, objective, model, tokenizer, train, valid, folder, final_dropout)
    job.remarks += _remarks(intake, tokens, train, valid)
    return job


def _tokenizer(
    folder: Path, recipe: PretrainRecipe, intake: _Intake, base: Base | None, report: Report
) -> tuple[Any, dict[str, Any]]:
    """Give the base model's tokenizer, or a fresh one (found in the folder if it was trained before); and its keys."""
    if base is not None:
        tokenizer = build_tokenizer(base.folder)
        return tokenizer, {"tokenizer": "of the base model", "vocab_size": len(tokenizer), "case": ""}
    found = plan_vocabulary(
        intake.survey.sample,
        objective=recipe.objective,
        kind=recipe.tokenizer,
        size=recipe.vocab_size,
        case=recipe.case,
        width=SIZES[recipe.size][1],
        characters=intake.survey.characters,
    )
    key = key_of([(file.sha256, file.mode) for file in intake.files], vars(intake.survey.held), vars(found))
    target = folder / CORPUS / f"tokenizer-{key}"
    if find_damage(target):
        report("training the tokenizer")
        fresh = train_tokenizer(intake.survey.sample, found)

        def fill(temporary: Path) -> None:
            with quiet():
                fresh.save_pretrained(temporary)

        shutil.rmtree(target, ignore_errors=True)
        write_folder(target, fill)
    tokenizer = build_tokenizer(target)
    case = "lower" if found.is_lower else "keep"
    return tokenizer, {"tokenizer": found.kind, "vocab_size": len(tokenizer), "case": case}


def _model(recipe: PretrainRecipe, base: Base | None, tokenizer: Any, max_length: int) -> tuple[Any, Mapping[str, Any]]:
    """Give the model, and the dropout entries that its kept configuration is to have."""
    model_class = importlib.import_module(OBJECTIVES[recipe.objective]).MODEL_CLASS
    if base is None:
        dropout = 0.0 if recipe.dropout == AUTO else float(recipe.dropout)
        config = sizes.make_config(recipe.objective, recipe.size, tokenizer, max_length=max_length, dropout=dropout)
        final = {name: sizes.ADAPTATION_DROPOUT for name in sizes.DROPOUTS if hasattr(config, name)}
        return sizes.make_model(model_class, config, seed=recipe.seed, init=recipe.init), final
    kept = read_config(base.folder)
    final = {name: getattr(kept, name) for name in sizes.DROPOUTS if hasattr(kept, name)}
    wanted = None if recipe.dropout == AUTO else float(recipe.dropout)
    return build_model(base.folder, model_class, seed=recipe.seed, dropout=wanted, attention_dropout=wanted), final


def _facts(intake: _Intake, tokens: Tokens, train: Blocks, valid: Blocks) -> dict[str, Any]:
    """Give the plan's `data`: files by hash, and every count."""
    named = [(f"corpus-{number}", file) for number, file in enumerate(intake.files, start=1)]
    named += [("valid", file) for file in intake.valid]
    return {
        "files": {name: {"path": file.path, "sha256": file.sha256} for name, file in named},
        "roles": {name: file.mode for name, file in named},
        "tokens": tokens.key,
        "documents": intake.survey.documents,
        "characters": intake.survey.characters,
        "rejected": intake.survey.rejected,
        "empty": intake.survey.empty,
        "leaks": tokens.leaks,
        "train_documents": tokens.train.documents,
        "valid_documents": tokens.valid.documents,
        "train_tokens": len(tokens.train.ids),
        "valid_tokens": len(tokens.valid.ids),
        "train_blocks": len(train),
        "valid_blocks": len(valid),
        "train_tail": train.tail,
        "valid_tail": valid.tail,
    }


def _remarks(intake: _Intake, tokens: Tokens, train: Blocks, valid: Blocks) -> list[str]:
    """Say what was guessed, and what is not used."""
    remarks = list(intake.survey.remarks)
    if tokens.leaks:
        remarks.append(f"{tokens.leaks:,} documents of the corpus also stand in the validation file and were left out")
    if train.tail:
        remarks.append(f"the last {train.tail:,} training tokens do not fill a block and are not read")
    unread = len(tokens.valid.ids) // valid.frame.body - len(valid)
    if unread > 0:
        remarks.append(f"{unread:,} held-out blocks are not measured (more with --set valid_blocks=...)")
    unknown = tokens.train.unknown / max(1, len(tokens.train.ids))
    if unknown > 0:
        counted = f"{tokens.train.unknown:,} training tokens ({unknown:.2%})"
        remarks.append(f"{counted} are unknown to the vocabulary")
    return remarks


def _read_plan(folder: Path) -> Plan:
    try:
        plan: Plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleProblem(
            "the plan of this run cannot be read, or comes from another version",
            where=str(folder / "plan.json"),
            do="run the first command again, with another --out",
        ) from error
    return plan


def _demand_same(kept: Plan, now: Plan, folder: Path) -> list[str]:
    """Compare the plan on disk with the one made anew; other library versions are a remark, all else an error."""
    before, after = kept.essence, json.loads(json.dumps(now.essence))
    versions = before.pop("versions"), after.pop("versions")
    changed = sorted(name for name in before if before[name] != after.get(name))
    if changed:
        details = {"data": "the corpus", "base_sha256": "the base model", "threads": "the number of threads"}
        raise BundleProblem(
            f"since this run began these have changed: {', '.join(details.get(name, name) for name in changed)}",
            where=str(folder),
            do="put back what was changed and resume, or start anew with another --out",
        )
    if versions[0] != versions[1]:
        return ["library versions have changed; the weights may differ in their last bits"]
    return []
