"""One family of errors; each says what happened, where, and what to do.

TunesmithError
├── DataProblem (ValueError)        the user's rows or files
├── PlanProblem (ValueError)        an option, a recipe key, or options that do not fit together
├── ModelProblem (ValueError)       a base model that cannot be found or must not be opened
├── BundleProblem (ValueError)      a run folder that is missing, unfinished or damaged
├── RegistryProblem (ValueError)    a name, version or promotion that the registry of served models refuses
├── MissingExtra (ImportError)      an optional package that is not installed
├── TrainingProblem (RuntimeError)  the numbers went wrong: loss or weights not finite
├── MachineProblem (OSError)        disk full, file vanished, folder in use
│   ├── StoreProblem                the feedback store is locked, full, damaged or out of reach
│   └── ProcessLost                 one of the processes that train a run is gone
├── QuotaProblem (RuntimeError)     somebody gave more feedback in a day than one may
└── Stopped (RuntimeError)          a signal asked the run to stop; the work so far is saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunesmithError(Exception):
    """Anything that Tunesmith refuses or cannot do, in three parts.

    Args:
        what: What happened, with the value that was seen.
        where: File and row, recipe key, or folder. Empty when there is no place to name.
        do: The option, command or change that gets the person further.
    """

    exit_code = 2
    """Process exit status that the command line leaves with (2: the user can mend it)."""

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.do = do

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.do:
            lines.append(f"  do:    {self.do}")
        return "\n".join(lines)


class DataProblem(TunesmithError, ValueError):
    """The user's rows or files cannot be used as they are."""


class PlanProblem(TunesmithError, ValueError):
    """An option or recipe key is wrong, or two of them do not fit together."""


class ModelProblem(TunesmithError, ValueError):
    """A base model cannot be found, or must not be opened."""


class BundleProblem(TunesmithError, ValueError):
    """A run folder is missing, unfinished or damaged."""


class RegistryProblem(TunesmithError, ValueError):
    """A name, a version or a promotion that the registry of served models refuses."""


class MissingExtra(TunesmithError, ImportError):
    """An optional package is needed and not installed."""


class TrainingProblem(TunesmithError, RuntimeError):
    """The numbers went wrong: a loss, gradient or weight is not finite."""

    exit_code = 3


class MachineProblem(TunesmithError, OSError):
    """The machine could not do it: disk full, file vanished, folder in use by another process."""

    exit_code = 4


class StoreProblem(MachineProblem):
    """The feedback store cannot be read or written; nothing that was asked for has happened.

    Args:
        what: What happened.
        where: The store's URL, without a password.
        do: What gets the person further.
        kind: locked, full, damaged, unreachable, newer (its schema is), or failed (anything else).
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", kind: str = "failed") -> None:
        super().__init__(what, where=where, do=do)
        self.kind = kind

    @property
    def can_retry(self) -> bool:
        """Whether the same request may succeed a little later without anybody doing anything."""
        return self.kind in {"locked", "unreachable"}


class ProcessLost(MachineProblem):
    """One of the processes that train a run ended, or cannot be reached; what was learnt so far is saved."""


class QuotaProblem(TunesmithError, RuntimeError):
    """Somebody gave more feedback in a day than one person may."""


class Stopped(TunesmithError, RuntimeError):
    """A signal asked the run to stop; everything up to the named step is saved."""

    def __init__(self, what: str, *, where: str = "", do: str = "", signal_number: int) -> None:
        super().__init__(what, where=where, do=do)
        self.exit_code = 128 + signal_number


def nearest_first(name: str, valid: Iterable[str]) -> str:
    """Give the valid names as one line of text, the ones most like `name` first."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return ", ".join([*close, *(other for other in names if other not in close)])
