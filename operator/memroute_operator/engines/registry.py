"""The engines by their type."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from memroute.footprint import EngineType
from memroute_operator.engines.custom import Custom
from memroute_operator.engines.llama_cpp import LlamaCPP
from memroute_operator.engines.reports import EngineReport, PartsReport, PoolReport
from memroute_operator.engines.seam import Drain, Engine, Phase, Probe, Probes, phase_reached
from memroute_operator.engines.sglang import SGLang
from memroute_operator.engines.vllm import VLLM

__all__ = [
    "ENGINES",
    "Drain",
    "Engine",
    "EngineReport",
    "PartsReport",
    "Phase",
    "PoolReport",
    "Probe",
    "Probes",
    "engine_of",
    "phase_reached",
    "read_report",
]

ENGINES: Final[Mapping[EngineType, Engine]] = MappingProxyType(
    {engine.type: engine for engine in (VLLM(), SGLang(), LlamaCPP(), Custom())}
)


def engine_of(type_: EngineType) -> Engine:
    """The engine of that type."""
    return ENGINES[type_]


def read_report(page: str) -> EngineReport | None:
    """What an engine's page says of its memory, whichever engine wrote it."""
    for engine in ENGINES.values():
        report = engine.read_report(page)
        if report is not None:
            return report
    return None
