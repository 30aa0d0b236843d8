"""Models and replicas from a YAML file, read again when it changes.

A file that cannot be used is refused as a whole, with every reason at once, and what was read
before stays in force. At start there is nothing before: the router does not start.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml

from memroute.traffic.replica import HostCache
from memroute.traffic.routing import POLICY_NAMES
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND
from memroute_kube.words import Words
from memroute_router.discovery.words import ADMISSION_MODES, OVERLOAD_OBJECTIVES
from memroute_router.http.client import Endpoint
from memroute_router.http.faults import OnFault, log_fault
from memroute_router.http.tls import EngineTLS
from memroute_router.peer_addresses import Address, parse_peer
from memroute_router.replicas.pool_settings import (
    DEFAULT_ASSUMED_OUTPUT_TOKENS,
    DEFAULT_TPOT_TARGET_SECONDS,
    DEFAULT_TTFT_TARGET_SECONDS,
    DEFAULT_WATERMARK_RATIO,
    PoolSettings,
)
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica, ReplicaInfo
from memroute_router.watched import WatchedFiles

_PORTS = {"http": 80, "https": 443}
_TLS_FIELDS = ("engineCA", "engineCertificate", "engineKey", "engineServerName")
_TOP_FIELDS = {"models", "peers", *_TLS_FIELDS}
_MODEL_FIELDS = {
    "name", "replicas", "maxContextTokens", "kvWatermarkPercent", "assumedOutputTokens",
    "policy", "prefillTokensPerSecond", "admission", "ttftTargetMilliseconds",
    "tpotTargetMilliseconds", "overloadObjective", "shares", "adapters", "tokenizer",
}  # fmt: skip
_REPLICA_FIELDS = {
    "url", "name", "kvCapacityTokens", "hostKVTokens", "maxContextTokens", "version", "weight",
}  # fmt: skip
# What 0.1 called fields, and what is written instead.
_RENAMED = {
    "kvWatermarkRatio": "kvWatermarkPercent (95 for 0.95)",
    "ttftTargetSeconds": "ttftTargetMilliseconds",
    "tpotTargetSeconds": "tpotTargetMilliseconds",
}
MAX_WEIGHT = 1000.0
MAX_TTFT_TARGET_MILLISECONDS = 3_600_000
MAX_TPOT_TARGET_MILLISECONDS = 60_000
Meaning = TypeVar("Meaning")


class ConfigError(Exception):
    """The file cannot be used; the message lists every reason."""


@dataclass(slots=True)
class StaticConfig:
    """What a file says."""

    replicas: list[ReplicaInfo] = field(default_factory=list)
    settings: dict[str, PoolSettings] = field(default_factory=dict)
    peers: list[Address] = field(default_factory=list)
    """Other routers of these replicas."""


def read_config(text: str) -> StaticConfig:
    """Models and replicas. Raises ``ConfigError``."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        msg = f"not YAML: {error}"
        raise ConfigError(msg) from error
    reader = _Reader()
    config = reader.config(document)
    if reader.problems:
        raise ConfigError("; ".join(reader.problems))
    return config


class _Reader:
    """Reads a document, collecting what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._tls: EngineTLS | None = None

    def config(self, document: Any) -> StaticConfig:
        config = StaticConfig()
        top = self._mapping(document, "the file", _TOP_FIELDS)
        self._tls = self._engine_tls(top)
        config.peers = self._peers(top)
        models = top.get("models")
        if not isinstance(models, list) or not models:
            self.problems.append("models must be a list of at least one model")
            return config
        for index, model in enumerate(models):
            self._model(config, model, f"models[{index}]")
        return config

    def _engine_tls(self, top: dict[str, Any]) -> EngineTLS | None:
        """How https replicas are known, and what the router shows them."""
        given = {name: top.get(name) for name in _TLS_FIELDS}
        for name, value in given.items():
            if value is not None and (not isinstance(value, str) or not value):
                self.problems.append(f"{name} must be a text, not {value!r}")
                return None
        if given["engineKey"] and not given["engineCertificate"]:
            self.problems.append("engineKey needs engineCertificate")
            return None
        try:
            return EngineTLS(
                ca=given["engineCA"],
                certificate=given["engineCertificate"],
                key=given["engineKey"],
                server_name=given["engineServerName"],
            )
        except (OSError, ValueError) as error:
            names = " and ".join(name for name in _TLS_FIELDS[:3] if given[name])
            self.problems.append(f"{names}: {error}")
            return None

    def _peers(self, top: dict[str, Any]) -> list[Address]:
        peers = []
        for name in self._names(top, "peers", "the file"):
            try:
                peers.append(parse_peer(name))
            except ValueError as error:
                self.problems.append(f"peers: {error}")
        return peers

    def _model(self, config: StaticConfig, document: Any, where: str) -> None:
        model = self._mapping(document, where, _MODEL_FIELDS)
        name = model.get("name")
        if not isinstance(name, str) or not name:
            self.problems.append(f"{where}.name must be a text")
            return
        if name in config.settings:
            self.problems.append(f"{where}.name: {name!r} is there twice")
        shares = self._shares(model, where)
        config.settings[name] = PoolSettings(
            shares=shares,
            adapters=self._names(model, "adapters", where),
            tokenizer_folder=self._folder(model, "tokenizer", where),
            namespace="",
            deployment=name,
            watermark_ratio=self._number(
                model, "kvWatermarkPercent", where, DEFAULT_WATERMARK_RATIO * 100, most=100
            )
            / 100,
            assumed_output_tokens=self._integer(model, "assumedOutputTokens", where)
            or DEFAULT_ASSUMED_OUTPUT_TOKENS,
            policy=self._one_of(model, "policy", where, POLICY_NAMES),
            prefill_tokens_per_second=self._number(
                model, "prefillTokensPerSecond", where, LLM_D_TOKENS_PER_SECOND, most=1e9
            ),
            admission=self._word(model, "admission", where, ADMISSION_MODES),
            ttft_target_seconds=self._number(
                model,
                "ttftTargetMilliseconds",
                where,
                DEFAULT_TTFT_TARGET_SECONDS * 1e3,
                most=MAX_TTFT_TARGET_MILLISECONDS,
            )
            / 1e3,
            tpot_target_seconds=self._number(
                model,
                "tpotTargetMilliseconds",
                where,
                DEFAULT_TPOT_TARGET_SECONDS * 1e3,
                most=MAX_TPOT_TARGET_MILLISECONDS,
            )
            / 1e3,
            overload_objective=self._word(model, "overloadObjective", where, OVERLOAD_OBJECTIVES),
        )
        context = self._integer(model, "maxContextTokens", where)
        replicas = model.get("replicas")
        if not isinstance(replicas, list):
            self.problems.append(f"{where}.replicas must be a list of urls")
            return
        for index, replica in enumerate(replicas):
            info = self._replica(replica, f"{where}.replicas[{index}]", name, context)
            if info is not None and any(info.key == other.key for other in config.replicas):
                self.problems.append(f"{where}.replicas[{index}]: {info.key!r} is there twice")
            elif info is not None:
                if shares and info.version not in shares:
                    self.problems.append(
                        f"{where}.replicas[{index}].version must be one of those in shares: "
                        f"{', '.join(sorted(shares))}, not {info.version!r}"
                    )
                config.replicas.append(info)

    def _replica(
        self, document: Any, where: str, model: str, context: int | None
    ) -> ReplicaInfo | None:
        if isinstance(document, str):
            document = {"url": document}
        replica = self._mapping(document, where, _REPLICA_FIELDS)
        endpoint = self._endpoint(replica.get("url"), where)
        if endpoint is None:
            return None
        own_context = self._integer(replica, "maxContextTokens", where)
        host = self._integer(replica, "hostKVTokens", where)
        return ReplicaInfo(
            namespace="",
            pod=str(replica.get("name") or f"{model}/{endpoint.host}:{endpoint.port}"),
            deployment=model,
            served_model=model,
            endpoint=endpoint,
            promised_capacity_tokens=self._integer(replica, "kvCapacityTokens", where),
            max_context_tokens=context if own_context is None else own_context,
            is_routable=True,
            version=str(replica.get("version") or ""),
            weight_ratio=self._number(replica, "weight", where, 1.0, most=MAX_WEIGHT),
            host=None if host is None else HostCache(host),
        )

    def _shares(self, model: dict[str, Any], where: str) -> dict[str, float]:
        """Of the traffic, by version."""
        given = model.get("shares")
        if given is None:
            return {}
        told = f"{where}.shares must be a mapping of versions to numbers, 0 or more, not all 0"
        if not isinstance(given, dict) or not all(_is_share(value) for value in given.values()):
            self.problems.append(told)
            return {}
        if not sum(given.values()):
            self.problems.append(told)
        return {str(version): float(value) for version, value in given.items()}

    def _folder(self, model: dict[str, Any], name: str, where: str) -> str | None:
        given = model.get(name)
        if given is None:
            return None
        if not isinstance(given, str) or not (Path(given) / "tokenizer.json").is_file():
            self.problems.append(
                f"{where}.{name} must be a folder with a tokenizer.json: {given!r}"
            )
            return None
        return given

    def _names(self, model: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        given = model.get(name) or []
        if not isinstance(given, list) or not all(isinstance(n, str) and n for n in given):
            self.problems.append(f"{where}.{name} must be a list of names")
            return ()
        return tuple(given)

    def _endpoint(self, url: Any, where: str) -> Endpoint | None:
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            self.problems.append(f"{where}.url: {error}")
            return None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path not in {"", "/"}:
            self.problems.append(f"{where}.url must be like http://10.0.0.1:8000, not {url!r}")
            return None
        tls = self._tls if parts.scheme == "https" else None
        return Endpoint(parts.hostname, port or 0, tls)

    def _mapping(self, document: Any, where: str, known: set[str]) -> dict[str, Any]:
        if not isinstance(document, dict):
            self.problems.append(f"{where} must be a mapping of {', '.join(sorted(known))}")
            return {}
        for name in sorted(set(map(str, document)) - known):
            if name in _RENAMED:
                told = f"{where}.{name} is called {_RENAMED[name]} now"
            else:
                told = f"{where}.{name} is unknown; known: {', '.join(sorted(known))}"
            self.problems.append(told)
        return document

    def _integer(self, document: dict[str, Any], name: str, where: str) -> int | None:
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.problems.append(f"{where}.{name} must be a positive integer, not {value!r}")
            return None
        return value

    def _one_of(
        self, document: dict[str, Any], name: str, where: str, known: tuple[str, ...]
    ) -> str:
        """One of ``known``, the first where nothing is said."""
        value = document.get(name, known[0])
        if value not in known:
            told = f"{where}.{name} must be one of {', '.join(known)}, not {value!r}"
            self.problems.append(told)
            return known[0]
        return str(value)

    def _word(
        self, document: dict[str, Any], name: str, where: str, words: Words[Meaning]
    ) -> Meaning:
        """What the word of an enumeration means, the default where nothing is said."""
        word = self._one_of(document, name, where, tuple(words.meanings))
        return words.read(word)

    def _number(
        self, document: dict[str, Any], name: str, where: str, default: float, *, most: float
    ) -> float:
        value = document.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            self.problems.append(f"{where}.{name} must be above 0 and at most {most}")
            return default
        return float(value)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


class StaticMembership:
    """Keeps the pools as the file says. Owns what was last applied."""

    def __init__(
        self,
        path: Path,
        pools: Pools,
        *,
        on_upsert: Callable[[Replica], None],
        on_retired: Callable[[Replica], None],
        on_reload: Callable[[bool], None],
        on_peers: Callable[[list[Address]], None] = lambda _: None,
        on_fault: OnFault = log_fault,
    ) -> None:
        """``on_reload`` is told whether a reading succeeded; ``on_peers``, who the others are.

        ``on_retired``: of replicas that are in the file no more. They may live on, so that what
        runs there goes on to its end.
        """
        self._path = path
        self._pools = pools
        self._on_upsert = on_upsert
        self._on_retired = on_retired
        self._on_peers = on_peers
        self._keys: set[str] = set()
        self._file = WatchedFiles(
            "configuration",
            (path,),
            self._read,
            self._apply,
            errors=(ConfigError,),
            on_reload=on_reload,
            on_bug=lambda error: on_fault("membership", error),
        )
        self.is_synced = False

    def load(self) -> None:
        """Read the file and apply it. Raises ``ConfigError``; nothing has changed then."""
        self._file.load()

    def reload_soon(self) -> None:
        """Read the file again, changed or not: SIGHUP."""
        self._file.reload_soon()

    async def follow(self) -> None:
        """Apply every change of the file, for ever."""
        await self._file.follow()

    def _read(self) -> StaticConfig:
        try:
            return read_config(self._path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot read it: {getattr(error, 'strerror', None) or error}"
            raise ConfigError(msg) from error

    def _apply(self, config: StaticConfig) -> tuple[Path, ...]:
        keys = {info.key for info in config.replicas}
        for key in self._keys - keys:
            replica = self._pools.retire_replica(key)
            if replica is not None:
                self._on_retired(replica)
        for info in config.replicas:
            self._on_upsert(self._pools.upsert_replica(info))
        self._keys = keys
        self._pools.configure(config.settings)
        self._on_peers(config.peers)
        self.is_synced = True
        return ()
