"""The engine as a model: scheduling, paging, prefix cache. Pure, deterministic, no clock.

Start with ``scheduler`` (the two phases of a step), then ``vllm`` and ``sglang`` (whose rules
differ), ``kv_cache`` (blocks), ``content`` (what tokens are to a prefix cache).
"""

from memroute_simulator.engine.model.content import Content, SegmentedContent, TokenContent
from memroute_simulator.engine.model.host_tier import (
    HostEvent,
    HostTier,
    HostTierLimits,
    HostTierLog,
)
from memroute_simulator.engine.model.kv_cache import (
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    KVCache,
)
from memroute_simulator.engine.model.queue import SchedulingPolicy
from memroute_simulator.engine.model.request import EngineRequest, RequestState
from memroute_simulator.engine.model.scheduler import Scheduler, StepPlan, StepResult
from memroute_simulator.engine.model.sglang import SGLangScheduler
from memroute_simulator.engine.model.vllm import VLLMScheduler

__all__ = [
    "BlockEvent",
    "BlocksCleared",
    "BlocksRemoved",
    "BlocksStored",
    "Content",
    "EngineRequest",
    "HostEvent",
    "HostTier",
    "HostTierLimits",
    "HostTierLog",
    "KVCache",
    "RequestState",
    "SGLangScheduler",
    "Scheduler",
    "SchedulingPolicy",
    "SegmentedContent",
    "StepPlan",
    "StepResult",
    "TokenContent",
    "VLLMScheduler",
]
