"""Which feedback a model has not learnt from yet: all but what it, or a model that it comes from, was trained on."""

from __future__ import annotations

from tunesmith.bundle.load import Bundle
from tunesmith.data.feedback.store import FeedbackStore
from tunesmith.types import Feedback
from tunesmith.updating.matrix import read_lineage


def pending_feedback(store: FeedbackStore, name: str, bundle: Bundle) -> list[Feedback]:
    """Give the labelled feedback on a name that a bundle has not learnt from, in the order of time.

    What a candidate learnt that the gate kept back is pending again: no model in use has learnt it.

    Args:
        store: Open.
        name: That the model is served under.
        bundle: The live one.
    """
    lineage = read_lineage(bundle)
    bundles = {bundle.id, *(step.bundle for step in lineage.steps)} if lineage else {bundle.id}
    learnt = {each for one in bundles for each in store.used_by(one)}
    return [feedback for feedback in store.rows(name) if feedback.id not in learnt]
