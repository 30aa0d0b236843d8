"""A plan on a real fleet: the nodes are read once, and all models are placed on what is free."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType

from memroute.catalog import Accelerator
from memroute_cli.plan import fitting_report, fleet
from memroute_cli.plan.asked import Asked
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.fitting import Now, fit_now
from memroute_cli.plan.report import Answers


class FleetPlan:
    """Owns what is known of the fleet, and where models would go on it."""

    def __init__(self, asked: Asked) -> None:
        """Reads the fleet. Raises ``PlanError`` or ``LookError``."""
        if asked.inventory and asked.is_on_cluster:
            msg = "--inventory and --cluster exclude each other"
            raise PlanError(msg)
        self._is_wide = asked.is_wide
        self._fleet = (
            fleet.saved_fleet(asked.inventory)
            if asked.inventory
            else fleet.live_fleet(asked.kubeconfig, asked.operator_namespace)
        )
        self._now = Now(source=self._fleet.source, notes=(), models=())

    def accelerators(self, asked: Asked) -> list[Accelerator]:
        """Those of the fleet, where nobody named any."""
        return [] if asked.accelerators else fleet.accelerators_of(self._fleet.inventory)

    def links(self) -> Mapping[str, str]:
        """What the fleet's nodes say joins their devices."""
        return fleet.links_of(self._fleet.inventory)

    def fits(self, answers: list[Answers], *, on_paper: bool) -> bool:
        """Place them; whether each has a place."""
        self._now = fit_now(self._fleet, answers)
        return all(one.placed is not None for one in self._now.models)

    def document(self, number: int) -> dict[str, Any]:
        """Under ``now``: every way that was tried."""
        return {"now": fitting_report.document(self._now, self._now.models[number])}

    def told(self, number: int) -> Iterable[RenderableType]:
        """The same for people."""
        return fitting_report.told(self._now, self._now.models[number], is_wide=self._is_wide)
