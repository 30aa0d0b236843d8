"""What was typed after ``memroute plan``."""

from dataclasses import dataclass
from pathlib import Path

from memroute_cli.cluster.commands import OPERATOR_NAMESPACE
from memroute_cli.terminal.output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options, read but not checked against each other."""

    models: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    inventory: tuple[Path, ...] = ()
    is_on_cluster: bool = False
    kubeconfig: Path | None = None
    operator_namespace: str = OPERATOR_NAMESPACE
    context_tokens: int | None = None
    concurrency: int = 1
    prompt_tokens: int = 1024
    output_tokens: int = 256
    precision: str = "auto"
    kv_cache_dtype: str = "auto"
    tensor_parallel: str = "auto"
    link: str | None = None
    num_per_card: int = 1
    checkpoint: str | None = None
    file: str | None = None
    start_log: Path | None = None
    prices: tuple[str, ...] = ()
    hub_endpoint: str | None = None
    hub_token_file: Path | None = None
    is_offline: bool = False
    shows_every: bool = False
    output: Output = Output.TABLE
    wants_manifest: bool = False
    is_wide: bool = False
    plot: Path | None = None
    host_memory: tuple[str, ...] = ()
    host_link: str | None = None
    conversations: int | None = None
    reuse: float = 0.5
    weights_offload: str | None = None
    backend: str = "native"
