"""A scenario from flags, and the words that its errors are told in."""

from pathlib import Path
from typing import Any

from memroute_cli.plan.models import read_model
from memroute_cli.simulate.asked import Asked
from memroute_cli.simulate.scenario import ScenarioError, Words

IN_FLAGS = Words(
    requests="--requests", rate="--rate", ttft="--ttft", tpot="--tpot", routers="--routers",
    scrape="--scrape", replicas="--replicas", context="--context", engine="--engine",
    quantization="--quantization", kv_cache_dtype="--kv-cache-dtype",
    tensor_parallel="--tensor-parallel", policy="--policy", objective="--objective",
    workload="--workload", per_card="--per-card", sharing="--sharing",
    host_memory="--host-memory", host_link="--host-link",
    weights_offload="--weights-offload",
)  # fmt: skip
# Long enough for chats with documents; most models were made for more. Chosen by hand.
USUAL_CONTEXT_TOKENS = 16_384
PICTURES = (".png", ".svg", ".pdf")


def document_of(asked: Asked) -> dict[str, Any]:
    """The scenario that was typed. Raises ``ScenarioError``."""
    if not asked.model:
        msg = "name a MODEL (memroute plan --list shows some), or a scenario with --file"
        raise ScenarioError(msg)
    rate = {} if asked.rate_per_second is None else {"rate": asked.rate_per_second}
    engine = {
        "model": asked.model, "replicas": asked.replicas, "kind": asked.engine,
        "tensorParallelSize": asked.tensor_parallel, "quantization": asked.quantization,
        "kvCacheDtype": asked.kv_cache_dtype, "link": asked.link,
        "maxContextTokens": _context_tokens(asked.model, asked.context_tokens),
        "hostMemory": asked.host_memory, "hostLink": asked.host_link,
        "weightsOnHostGiB": asked.weights_offload,
    }  # fmt: skip
    return {
        "workload": {"name": asked.workload, "requests": asked.num_requests} | rate,
        "policies": list(asked.policies) or ["memroute"],
        "perCard": asked.replicas_per_card,
        "sharing": asked.sharing,
        "routers": asked.num_routers,
        "scrape": asked.scrape_seconds,
        "target": {"ttft": asked.ttft_seconds, "tpot": asked.tpot_seconds},
        "objective": asked.objective,
        "seed": asked.seed,
        "fleets": {
            f"{asked.replicas} x {name}": [engine | {"accelerator": name}]
            for name in asked.accelerators or ("H100",)
        },
    }


def _context_tokens(model: str, asked: int | None) -> int:
    """As typed, else the usual, or what the model was made for where that is less."""
    if asked is not None:
        return asked
    longest = read_model(model, None).architecture.max_context_tokens
    return USUAL_CONTEXT_TOKENS if longest is None else min(USUAL_CONTEXT_TOKENS, longest)


def check_picture(plot: Path | None) -> None:
    """Raises ``ScenarioError`` for a picture that cannot be written, before hours of simulation."""
    if plot is None:
        return
    if plot.suffix not in PICTURES:
        msg = f"--plot takes a .png, .svg or .pdf, not {plot.name}"
        raise ScenarioError(msg)
    if not plot.parent.is_dir():
        msg = f"--plot {plot}: there is no folder {plot.parent}"
        raise ScenarioError(msg)
