"""The calls to one replica about its adapters: its container that fetches, and its engine."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from memroute_kube.resources import ENGINE_PORT
from memroute_operator.adapters.caller import LOAD_SECONDS, Caller
from memroute_operator.adapters.calls import (
    AdapterCalls,
    Refused,
    engine_words,
    is_absent_already,
    is_loaded_already,
    read_loaded,
    why_refused,
)
from memroute_operator.adapters.container import ADAPTERS_CONTAINER, ADAPTERS_PORT
from memroute_operator.adapters.deciding import (
    FetchTold,
    Load,
    Unload,
    address_to_fetch,
    read_fetched,
)
from memroute_operator.adapters.reading import Adapter

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One replica, and what it should have."""

    uid: str
    pod: str
    """``namespace/name``."""
    address: str
    is_ready: bool
    num_restarts: int
    wanted: tuple[Adapter, ...]
    commits: Mapping[str, str]
    mount_paths: tuple[str, ...]
    calls: AdapterCalls
    served_name: str
    max_rank: int
    is_held: bool = False
    """Whether it is only looked at: it is paused, and nobody knows what it should have."""

    @property
    def namespace(self) -> str:
        """Of the pod."""
        return self.pod.partition("/")[0]

    def is_same_engine(self, other: "Target") -> bool:
        """Whether neither was its engine started anew between the two, nor did it stop serving."""
        return (self.is_ready, self.num_restarts) == (other.is_ready, other.num_restarts)


async def ask_engine(caller: Caller, target: Target) -> dict[str, str] | str | None:
    """The adapters that the engine has loaded, each with its folder; or why it does not say.

    None: it did not answer, as one that is just ending.
    """
    page = await caller.call("GET", target.address, ENGINE_PORT, "/v1/models")
    loaded = read_loaded(page.text) if page.is_good else None
    if loaded is not None:
        return loaded
    LOGGER.info("adapters not read pod=%s answer=%s", target.pod, engine_words(page.text))
    if not page.status:
        return None
    asks_for_key = page.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    helps = ": memroute has no key for it, so take --api-key away" if asks_for_key else ""
    return f"the engine does not list its adapters at /v1/models (HTTP {page.status}){helps}"


async def ask_container(caller: Caller, target: Target) -> tuple[dict[str, FetchTold], str | None]:
    """What is wanted of it, and how far it is; or why nobody knows, where it is needed."""
    sources = {
        one.name: address_to_fetch(one, target.commits.get(one.name))
        for one in target.wanted
        if one.address is not None
    }
    answer = await caller.call("PUT", target.address, ADAPTERS_PORT, "/adapters", sources)
    told = read_fetched(answer.text) if answer.is_good else None
    if told is None and sources:
        LOGGER.info(
            "adapters not asked for pod=%s answer=%s", target.pod, engine_words(answer.text)
        )
        return {}, (
            f"its container {ADAPTERS_CONTAINER} does not answer at port {ADAPTERS_PORT}: see "
            f"kubectl logs {target.pod.partition('/')[2]} -c {ADAPTERS_CONTAINER}, and whether "
            f"a NetworkPolicy keeps the operator out"
        )
    # What it says of another source than the one that is wanted is out of date.
    return {n: one for n, one in (told or {}).items() if sources.get(n) == one.wanted}, None


async def unload(caller: Caller, target: Target, unwanted: Unload, loaded: dict[str, str]) -> None:
    """Have the engine forget it; what it has by then is in ``loaded``."""
    name = unwanted.engine_name
    answer = await caller.call(
        "POST", target.address, ENGINE_PORT, target.calls.unload_path, {"lora_name": name},
        seconds=LOAD_SECONDS,
    )  # fmt: skip
    if answer.is_good or is_absent_already(engine_words(answer.text)):
        loaded.pop(name, None)
        LOGGER.info("adapter unloaded pod=%s adapter=%s", target.pod, engine_words(name))
    else:
        LOGGER.warning(
            "adapter not unloaded pod=%s adapter=%s status=%d error=%s",
            target.pod, engine_words(name), answer.status, engine_words(answer.text),
        )  # fmt: skip


async def load(
    caller: Caller, target: Target, wanted: Load, loaded: dict[str, str]
) -> Refused | None:
    """Why it could not be loaded; None when it is."""
    answer = await caller.call(
        "POST", target.address, ENGINE_PORT, target.calls.load_path,
        {"lora_name": wanted.engine_name, "lora_path": wanted.path}, seconds=LOAD_SECONDS,
    )  # fmt: skip
    words = engine_words(answer.text)
    if answer.is_good or (answer.status and is_loaded_already(words)):
        loaded[wanted.engine_name] = wanted.path
        LOGGER.info("adapter loaded pod=%s adapter=%s", target.pod, wanted.name)
        return None
    if not answer.status:
        return Refused(f"the engine did not answer: {words}")
    return why_refused(
        answer.status, answer.text, max_rank=target.max_rank, base_model=wanted.base_model
    )
