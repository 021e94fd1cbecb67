"""What the routes work with: one object for each service, so that nothing hides in a module."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesmith.bundle.registry import Registry
from tunesmith.service.access import Access
from tunesmith.service.answering import Answering, ServedModel
from tunesmith.service.keeping import Keeper
from tunesmith.service.limits import RateLimit
from tunesmith.service.logs import Log
from tunesmith.service.meters import Meters
from tunesmith.service.problems import HttpProblem
from tunesmith.service.refusals import NotReady
from tunesmith.service.settings import Settings
from tunesmith.service.watching import Watcher


@dataclass
class Parts:
    """Everything a route may need."""

    settings: Settings
    answering: Answering
    access: Access
    rates: RateLimit
    log: Log
    meters: Meters
    registry: Registry
    keeper: Keeper | None  # None: answers are not kept, and there is no feedback
    watcher: Watcher | None
    is_draining: bool = False  # not ready for more, for load balancers; what comes is answered all the same
    has_started: bool = field(default=False)  # whether every model that was named at the start has loaded or failed

    def model(self, name: str) -> ServedModel:
        """Give a served model by name.

        Raises:
            HttpProblem: 404, without repeating the name.
        """
        found = self.answering.models().get(name)
        if found is None:
            raise HttpProblem(
                404, "no_such_model", "no model of this name is served", do="see GET /v1/models", where="model"
            )
        return found

    def demand_keeper(self) -> Keeper:
        """Give the keeper.

        Raises:
            HttpProblem: 404: answers are not kept.
        """
        if self.keeper is None:
            raise HttpProblem(
                404,
                "not_kept",
                "this service keeps no answers, so there is no feedback on them",
                do="start it without --no-keep",
            )
        return self.keeper

    def ready_model(self, name: str) -> ServedModel:
        """Give a model that answers now: only then it is known what it can be asked.

        Raises:
            HttpProblem: 404.
            NotReady: It loads, or could not be loaded.
        """
        found = self.model(name)
        if found.state == "ready":
            return found
        if found.state == "loading":
            raise NotReady("this model is being loaded", do="ask again in a moment", retry_after=1.0)
        raise NotReady("this model could not be loaded", do="tell the operator", retry_after=60.0)
