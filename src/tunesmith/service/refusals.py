"""Why a request was not answered: each with a stable code, a status, and whether asking again can help.

Refusal
|- NoSuchModel     404  no_such_model
|- NotReady        503  not_ready         loading, or draining; ask again
|- Busy            429  busy              the queue is full; ask again after `retry_after` seconds
|- TooSlow         504  timeout           no answer in the time allowed; ask again
|- WorkerLost      503  worker_lost       the process that ran the model died; ask again
|- BadInput        422  bad_input         this input cannot be used; asking again does not help
`- ModelFault      500  model_fault       the model failed on exactly this input, alone
"""

from __future__ import annotations


class Refusal(Exception):
    """A request that gets no answer. Its text goes to the client: it repeats no input and names no path."""

    status = 500
    code = "internal"
    can_retry = False

    def __init__(self, what: str, *, do: str = "", where: str = "", retry_after: float = 0.0) -> None:
        super().__init__(what)
        self.what = what
        self.do = do
        self.where = where  # which input, e.g. "inputs[3]"
        self.retry_after = retry_after  # seconds; 0: not said


class NoSuchModel(Refusal):
    """No model of that name is served."""

    status, code = 404, "no_such_model"


class NotReady(Refusal):
    """The model is loading, or the service is about to end."""

    status, code, can_retry = 503, "not_ready", True


class Busy(Refusal):
    """The queue is full."""

    status, code, can_retry = 429, "busy", True

    @classmethod
    def of(cls, seconds: float) -> Busy:
        """Give the refusal that says to come back after this long."""
        return cls("too many requests wait", do="ask again later", retry_after=round(seconds, 3))


class TooSlow(Refusal):
    """No answer in the time allowed."""

    status, code, can_retry = 504, "timeout", True


class WorkerLost(Refusal):
    """The process that ran the model died with the request in it."""

    status, code, can_retry = 503, "worker_lost", True


class BadInput(Refusal):
    """An input that the task cannot use."""

    status, code = 422, "bad_input"


class ModelFault(Refusal):
    """The model failed on this input when it was asked it alone."""

    status, code = 500, "model_fault"
