"""What the router is told when it starts; read once. ``options.py`` has the options themselves."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memroute.command_line import CommandLine
from memroute_router.access.media_hosts import MediaHosts
from memroute_router.access.proxies import Network
from memroute_router.lifecycle.claims import TenantSource
from memroute_router.log.journal import AccessLog
from memroute_router.log.log_lines import LogFormat
from memroute_router.options import settings_parser
from memroute_router.peer_addresses import parse_peer

EXAMPLES = """\
on Kubernetes (as the chart starts it), from ModelDeployments
  memroute-router --namespace models

without Kubernetes, from a file, which is read again when it changes
  memroute-router --config router.yaml

  # router.yaml
  models:
    - name: llama-3-8b               # the name that clients send as "model"
      replicas:
        - http://10.0.0.11:8000
        - url: https://10.0.0.12:8000  # fields beside the url are optional
          name: gpu-12
          kvCapacityTokens: 131072   # until the engine says so itself
          weight: 2.0                # twice what its measured speed would get
          version: canary
      shares: {"": 95, canary: 5}    # of the traffic, by version
      tokenizer: /models/llama-3-8b  # has tokenizer.json: counts tokens
      adapters: [sql-lora]           # LoRA adapters, by these names
      maxContextTokens: 32768
      kvWatermarkPercent: 95
      assumedOutputTokens: 256
      policy: memroute               # or llm-d, lmetric, round-robin, ...
      prefillTokensPerSecond: 15928  # as measured: for the policy llm-d
      admission: Enforce             # Observe: only count; Disabled: send all
      ttftTargetMilliseconds: 1000
      tpotTargetMilliseconds: 50
      overloadObjective: Requests    # or Tokens, Sizes: who is late
  peers: [router-b:8001]             # other routers of these replicas

to see what it decides
  curl localhost:8002/debug/decisions; curl localhost:8002/debug/queue
  curl -H 'x-memroute-explain: 1' -i localhost:8000/v1/chat/completions -d '...'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Settings of one router process."""

    host: str
    port: int
    ops_host: str | None
    ops_port: int
    config: str | None
    namespace: tuple[str, ...]
    map_namespace: str
    router_name: str | None
    scrape_seconds: float
    tokenizers: str | None
    kv_events: bool
    max_attempts: int
    max_queued_requests: int
    max_queued_tokens: int
    max_queue_seconds: float
    hold_without_replicas: bool
    replica_wait_seconds: float
    keys: str | None
    engine_key_file: str | None
    tenants: TenantSource
    trust_headers: bool
    trusted_proxies: tuple[Network, ...]
    media_hosts: MediaHosts | None
    max_connections: int
    max_client_connections: int
    max_client_requests: int
    max_body_bytes: int
    max_memory: int
    connect_timeout_seconds: float
    first_byte_timeout_seconds: float
    stalled_engine_seconds: float
    stalled_client_seconds: float
    idle_timeout_seconds: float
    header_timeout_seconds: float
    body_timeout_seconds: float
    shutdown_timeout_seconds: float
    access_log: AccessLog
    log_format: LogFormat
    no_explain_header: bool
    tracing_endpoint: str | None
    tracing_ratio: float
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    peer: tuple[str, ...]
    peer_selector: str | None
    peer_namespace: str | None
    peer_port: int
    peer_secret_file: str | None
    peer_bytes_per_second: int


def parse_settings(argv: Sequence[str]) -> RouterSettings:
    """Settings from the command line; each has a default that fits the shipped manifests."""
    parser = settings_parser(
        "memroute-router",
        "Admits OpenAI-API requests; sends each to the replica where it costs least.",
        EXAMPLES,
    )
    return settings_of(parser, vars(parser.parse_args(argv)))


def settings_of(parser: CommandLine, values: Mapping[str, Any]) -> RouterSettings:
    """What was said. ``parser``: tells the user what cannot be, and ends the program."""
    parsed = argparse.Namespace(**values)
    if parsed.config and parsed.namespace:
        parser.error("--config and --namespace exclude each other")
    if parsed.tls_key and not parsed.tls_cert:
        parser.error("--tls-key needs --tls-cert")
    if parsed.tls_client_ca and not parsed.tls_cert:
        parser.error("--tls-client-ca needs --tls-cert")
    try:
        for peer in parsed.peer:
            parse_peer(peer)
    except ValueError as error:
        parser.error(f"--peer: {error}")
    if parsed.keys and parsed.tenants is not TenantSource.NONE:
        parser.error("--tenants has nothing to tell apart with --keys: keys name their tenants")
    if parsed.peer_selector and parsed.config:
        parser.error("--peer-selector asks the API server: not with --config")
    several = {name: tuple(getattr(parsed, name)) for name in ("namespace", "peer")}
    return RouterSettings(**(vars(parsed) | several))
