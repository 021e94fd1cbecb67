"""What a sweep varies: the methods' declared spaces, or what the person names, as distributions that Optuna draws from.

Written by people as `KEY` (the range that its method declares), `KEY=LOW..HIGH` (drawn on a logarithmic scale where
the ends are ten times apart) or `KEY=A,B,C`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.methods.space import GENERAL, Choices, Range
from tunesmith.training.recipe import canonical, keys
from tunesmith.training.recipe_values import read_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

METHOD = "method"  # the parameter that says which method a trial takes, where there are several
_FIXED = {
    # What all trials have in common: the rows, how they are read and scored, and where the work is done.
    *("data", "valid", "test", "task", "columns", "text", "label", "model", "method", "merge", "metric", "abstain_at"),
    *("valid_share", "test_share", "max_rejected", "baseline_rows", "seed", "threads", "device", "track", "out"),
    *("checkpoint_seconds", "patience", "eval_steps", "mixed_precision", "budget", "max_steps", "max_length"),
}
_APART = 10  # ends that are as many times apart are drawn on a logarithmic scale
_DIGITS = 4  # of a drawn number: nobody wants to read, or type, a rate of seventeen digits


@dataclass(frozen=True)
class Entry:
    """One key that varies."""

    key: str  # of the recipe
    distribution: BaseDistribution
    usual: Any  # what the plan would take by itself; None where it leaves that open


@dataclass(frozen=True)
class SearchSpace:
    """What varies, for each method. `names` are the parameters' in the database: METHOD.KEY where methods differ."""

    methods: tuple[str, ...]
    entries: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)  # method -> name -> entry

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Let Optuna choose a method and its settings; give the recipe keys."""
        method = self.methods[0]
        if len(self.methods) > 1:
            method = trial.suggest_categorical(METHOD, list(self.methods))
        settings: dict[str, Any] = {METHOD: method}
        for name, entry in self.entries[method].items():
            settings[entry.key] = _drawn(trial, name, entry.distribution)
        return settings

    def usual(self, method: str) -> dict[str, Any]:
        """Give the parameters, by their names in the database, of the method's own defaults."""
        chosen = {name: entry.usual for name, entry in self.entries[method].items() if entry.usual is not None}
        return ({METHOD: method} if len(self.methods) > 1 else {}) | chosen

    def settings(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Give the recipe keys of parameters by their names in the database."""
        method = str(parameters.get(METHOD, self.methods[0]))
        known = self.entries.get(method, {})
        return {METHOD: method} | {known[name].key: tidy(value) for name, value in parameters.items() if name in known}

    def varied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Give the settings without a method that all trials have."""
        return {key: value for key, value in settings.items() if key != METHOD or len(self.methods) > 1}

    def described(self) -> dict[str, dict[str, str]]:
        """Give each method's space in words, as it is kept with the sweep and compared when it goes on."""
        return {
            method: {entry.key: in_words(entry.distribution) for entry in found.values()}
            for method, found in self.entries.items()
        }


def in_words(distribution: Any) -> str:
    """Say what a value may be."""
    if hasattr(distribution, "choices"):
        *others, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in distribution.choices)
        return f"{', '.join(others)} or {last}" if others else last
    scale = ", on a logarithmic scale" if distribution.log else ""
    return f"{distribution.low:g} to {distribution.high:g}{scale}"


def _drawn(trial: Trial, name: str, distribution: Any) -> Any:
    """Let Optuna draw one value."""
    if hasattr(distribution, "choices"):
        return trial.suggest_categorical(name, distribution.choices)
    draw = trial.suggest_int if isinstance(distribution.low, int) else trial.suggest_float
    return tidy(draw(name, distribution.low, distribution.high, log=distribution.log))


def tidy(value: Any) -> Any:
    """Give a drawn number with few digits; all else as it is."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def read_space(items: Sequence[str]) -> dict[str, Range | Choices | None]:
    """Read what a person wrote; None stands for "as declared".

    Raises:
        PlanProblem: No such recipe key, one that all trials have in common, or values that the key cannot have.
    """
    found: dict[str, Range | Choices | None] = {}
    for item in items:
        name, equals, values = item.partition("=")
        (key,) = canonical({name.strip(): ""}, where="--space")
        if key in _FIXED:
            raise PlanProblem(
                f"'{key}' is the same in all trials of a sweep",
                where="--space",
                do=f"set it for all of them: --set {key}=VALUE; or start a sweep for each value",
            )
        found[key] = _read_values(key, values.strip()) if equals else None
    return found


def _read_values(key: str, text: str) -> Range | Choices:
    item = next(item for item in keys() if item.name == key)
    low, dots, high = text.partition("..")
    if dots:
        ends = read_value(item, low.strip()), read_value(item, high.strip())
        if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends) or ends[0] >= ends[1]:
            raise PlanProblem(
                f"'{key}={text}' is no range",
                where="--space",
                do=f"write {key}=LOW..HIGH, e.g. learning_rate=1e-5..1e-3",
            )
        is_whole = item.metadata["kind"].endswith("whole")
        return Range(*ends, is_log=ends[0] > 0 and ends[1] >= _APART * ends[0], is_whole=is_whole)
    values = tuple(dict.fromkeys(read_value(item, part.strip()) for part in text.split(",") if part.strip()))
    if len(values) < 2:
        raise PlanProblem(
            f"'{key}={text}' leaves nothing to choose", where="--space", do=f"write {key}=LOW..HIGH or {key}=A,B,C"
        )
    return Choices(values)


def make_space(
    asked: Mapping[str, Range | Choices | None],
    declared: Mapping[str, Mapping[str, Range | Choices]],
    usual: Mapping[str, Mapping[str, Any]],
    *,
    sizes: Mapping[str, int],
) -> SearchSpace:
    """Give what varies.

    Args:
        asked: As `read_space` gives it; empty for all that the methods declare.
        declared: Method -> key -> what the method declares.
        usual: Method -> options of the plan that its defaults make.
        sizes: "blocks" and "hidden" of the base model.

    Raises:
        PlanProblem: A key has no declared range, or a method is left with nothing to vary.
    """
    found: dict[str, dict[str, Entry]] = {}
    if unheard := [key for key in asked if not any(key in options for options in usual.values())]:
        raise PlanProblem(
            f"'{unheard[0]}' changes nothing here: no plan of {', '.join(declared)} has it",
            where="--space",
            do="leave it out, or choose a method that listens to it; `tunesmith methods NAME` lists a method's options",
        )
    for method, own in declared.items():
        listens = [key for key in asked if key in usual[method]]
        wanted = {key: entry for key in listens if (entry := asked[key] or own.get(key) or GENERAL.get(key))}
        wanted = wanted if asked else dict(own)
        found[method] = {key: _entry(key, entry, usual[method], sizes) for key, entry in wanted.items()}
        if not found[method]:
            raise PlanProblem(
                f"method '{method}' has nothing that this sweep could vary",
                where="--space",
                do="leave it out of --methods, or name keys that it listens to; `tunesmith methods` lists them",
            )
    unknown = [key for key in asked if not any(key in entries for entries in found.values())]
    if unknown:
        known = {*GENERAL, *(key for own in declared.values() for key in own)}
        raise PlanProblem(
            f"no range is declared for '{unknown[0]}'",
            where="--space",
            do=f"write {unknown[0]}=LOW..HIGH or {unknown[0]}=A,B; declared are: {nearest_first(unknown[0], known)}",
        )
    return SearchSpace(tuple(found), {method: _named(method, found) for method in found})


def _named(method: str, found: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Name the parameters: by their key where all methods that have it draw it alike, else METHOD.KEY."""
    named = {}
    for key, entry in found[method].items():
        others = [entries[key].distribution for entries in found.values() if key in entries]
        is_shared = all(other == entry.distribution for other in others)
        named[key if is_shared else f"{method}.{key}"] = entry
    return named


def _entry(key: str, declared: Range | Choices, usual: Mapping[str, Any], sizes: Mapping[str, int]) -> Entry:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = usual.get(key)
    usual_number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 1.0
    if isinstance(declared, Choices):
        values = tuple(_times(each, value) for each in declared.values) if declared.is_factor else declared.values
        values = tuple(dict.fromkeys(values))
        return Entry(key, CategoricalDistribution(values), value if value in values else None)
    scale = usual_number if declared.is_factor else 1.0
    low, high = declared.low * scale, declared.high * scale
    if declared.at_most:
        high = min(high, sizes[declared.at_most])
    if declared.is_whole:
        low, high = max(round(low), 1 if declared.is_factor else round(low)), max(round(high), 1)
        whole = None if value is None or not low <= round(usual_number) <= high else round(usual_number)
        return Entry(key, IntDistribution(int(low), int(high), log=declared.is_log), whole)
    is_inside = isinstance(value, (int, float)) and low <= usual_number <= high
    return Entry(
        key, FloatDistribution(tidy(low), tidy(high), log=declared.is_log), tidy(usual_number) if is_inside else None
    )


def _times(factor: float, value: Any) -> Any:
    """Give a value some times as large; a whole one stays whole, and at least one."""
    return max(1, round(factor * value)) if isinstance(value, int) else tidy(factor * float(value))
