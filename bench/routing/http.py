"""The ranking over HTTP: real routers, real sockets, engines that keep real time.

Four simulated engines behind vLLM's HTTP surface, each a process; routers one after the other on
the same engines' caches, cleared in between by starting the engines anew; an open-loop client. The
engines run slower than the hardware by ``time_scale``, so that two cores can carry what they send;
targets are stretched by as much. A router is a YAML file as for ``bench.datapath``: a command, an
address, a path that is 200 when it is ready.
"""

import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from bench.datapath.peer import Peer, PeerError, RunningPeer, read_peer
from bench.load.__main__ import summary
from bench.load.generator import LoadRun, LoadSettings, generate
from bench.native import build_native
from bench.routing.cases import CASES, LLAMA_2_7B, LLAMA_8B, QWEN_32B, Case
from bench.routing.progress import Row, collect
from bench.server import Server, ServerError, serving
from bench.vllm_cpu import MODEL, TINY, make_model, vllm_server
from bench.vllm_cpu import START_SECONDS as VLLM_START_SECONDS
from memroute.catalog import architecture_for_model
from memroute.traffic.routing import POLICY_NAMES
from memroute_simulator.engine.spec import EngineSpec

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEER_FOLDERS = (HERE / "peers", ROOT / "bench" / "datapath" / "peers")
PEERS_VENV = ROOT / ".venv-bench"
VLLM_PYTHON = ROOT / ".venv-conformance" / "bin" / "python"
VLLM_CPU = "vllm-cpu"
VLLM_CONTEXT_TOKENS = 4096
VLLM_FLAGS = (
    "--max-model-len", str(VLLM_CONTEXT_TOKENS), "--max-num-batched-tokens", "512",
    "--max-num-seqs", "64", "--kv-cache-memory-bytes", str(48 * 1024 * 1024),
)  # fmt: skip
"""A core computes some 1,000 prompt tokens per second; 48 MiB hold 48k tokens of the tiny model."""
ENGINE_PORT, ROUTER_PORT = 8811, 8850
START_SECONDS = 60.0
ROUTER_CORE = 0
DEFAULT_ROUTERS = (
    "memroute", "lmetric", "least-request", "round-robin", "vllm-router-cache-aware",
    "vllm-router-power-of-two", "sglang-router-cache-aware",
)  # fmt: skip
MODELS = (LLAMA_8B, LLAMA_2_7B, QWEN_32B)
_TOLD = (
    "num_requests", "num_whole", "statuses", "errors", "attainment_ratio", "ttft_seconds",
    "tpot_seconds", "send_lag_seconds", "cpu_ratio",
)  # fmt: skip
HTTP_CASES = ("azure-code", "kv-cliff")
"""Those whose answers two cores can carry: few tokens per second, or long ones that are slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """What is measured over HTTP."""

    cases: tuple[str, ...]
    routers: tuple[str, ...]
    seeds: tuple[int, ...]
    loads: tuple[float, ...]
    num_requests: int
    time_scale: float
    engines: tuple[str, ...] = ()
    """Addresses (host:port) of engines that run already, or ``vllm-cpu``: two such servers are
    started; none: simulated ones are."""
    model: str = "m"
    """What clients ask those for."""
    whole_ratio: float = 0.0
    """Of the requests, those that are not streamed."""
    stream_interval: int = 1
    """Tokens of an event of simulated engines."""


def find_router(name: str) -> Peer:
    """A router by its file, by its name among ours, or our own by its policy.

    Raises ``PeerError``.
    """
    if name in POLICY_NAMES:
        return _by_policy(name)
    paths = [Path(name)] if name.endswith(".yaml") else [f / f"{name}.yaml" for f in PEER_FOLDERS]
    for path in paths:
        if path.exists():
            return read_peer(path)
    files = {path.stem for folder in PEER_FOLDERS for path in folder.glob("*.yaml")}
    known = sorted({*files, *POLICY_NAMES})
    msg = f"no such router: {name}; a YAML file, or one of {', '.join(known)}"
    raise PeerError(msg)


def _by_policy(policy: str) -> Peer:
    """Our own router; with a published policy it holds and refuses nothing, as peers do."""
    router = read_peer(HERE / "peers" / "memroute.yaml")
    is_own = policy == router.name
    admission = "Enforce" if is_own else "Disabled"
    filled = _filled(router, {"{policy}": policy, "{admission}": admission})
    return filled if is_own else replace(filled, name=f"{policy} (in memroute)")


def measure_over_http(options: HttpOptions) -> list[Row]:
    """Every router on every case, load and seed; interleaved, so that a noisy minute hits all."""
    with ExitStack() as stack:
        if options.engines == (VLLM_CPU,):
            addresses = stack.enter_context(_vllm_servers())
            options = replace(options, engines=tuple(addresses), model=MODEL)
        return _measured_all(options)


@contextmanager
def _vllm_servers() -> Iterator[list[str]]:
    """The addresses of two vLLM servers on the CPU, with a tiny model."""
    if not VLLM_PYTHON.exists():
        msg = f"there is no vLLM in {VLLM_PYTHON.parent.parent}: `make conformance` installs it"
        raise PeerError(msg)
    with tempfile.TemporaryDirectory(prefix="memroute-vllm-") as name:
        folder = make_model(Path(name), TINY | {"max_position_embeddings": VLLM_CONTEXT_TOKENS})
        servers = [
            vllm_server(
                VLLM_PYTHON,
                folder,
                port=ENGINE_PORT + core,
                flags=VLLM_FLAGS,
                environment={"VLLM_CPU_OMP_THREADS_BIND": str(core), "VLLM_SERVER_DEV_MODE": "1"},
            )
            for core in (0, 1)
        ]
        with serving(*servers, within_seconds=VLLM_START_SECONDS):
            yield [server.url.removeprefix("http://") for server in servers]


def _measured_all(options: HttpOptions) -> list[Row]:
    native = build_native()
    routers = [find_router(name) for name in options.routers]
    work = [
        (CASES[name], seed, load, router)
        for name in options.cases
        for seed in options.seeds
        for load in options.loads
        for router in routers
    ]

    def runs() -> Iterator[Row | Exception]:
        for case, seed, load, router in work:
            try:
                yield _measured(case, router, seed, load, options, native)
            except (PeerError, ServerError) as error:
                yield error

    return collect(runs(), count=len(work), name="http", by="router")


def _measured(
    case: Case, router: Peer, seed: int, load: float, options: HttpOptions, native: Path
) -> Row:
    scale = options.time_scale
    ttft, tpot = case.target.ttft_seconds * scale, case.target.tpot_seconds * scale
    rate = load * case.first_rate / scale
    workload = case.generate(rate, seed, options.num_requests)
    with (
        tempfile.TemporaryDirectory(prefix="memroute-http-") as name,
        _engines(case, native, options) as engines,
    ):
        running = RunningPeer(
            _filled(
                router,
                {
                    "{ttft}": f"{ttft:g}",
                    "{tpot}": f"{tpot:g}",
                    "{ttft_milliseconds}": f"{max(1, round(ttft * 1e3))}",
                    "{tpot_milliseconds}": f"{max(1, round(tpot * 1e3))}",
                    "{model}": options.model,
                },
            ),
            engines=engines,
            port=ROUTER_PORT,
            core=ROUTER_CORE,
            folder=Path(name),
            search=[Path(sys.executable).parent, PEERS_VENV / "bin"],
        )
        try:
            running.wait_until_ready()
            settings = LoadSettings(
                url=f"http://{running.host}:{running.port}",
                model=options.model,
                timeout_seconds=180.0 * scale,
                whole_ratio=options.whole_ratio,
            )
            run: LoadRun = uvloop.run(generate(workload, settings))
            preemptions = sum(_preemptions(host, port) for host, port in engines)
        finally:
            running.stop()
    run.answers = run.answers[len(run.answers) // 10 :]
    told = summary(run, ttft=ttft, tpot=tpot)
    return {
        "case": case.name,
        "router": router.name,
        "seed": seed,
        "load": load,
        "rate": rate,
        "time_scale": scale,
        "num_preemptions": preemptions,
        "num_shed": sum(count for status, count in told["statuses"].items() if status != "200"),
    } | {name: told[name] for name in _TOLD}


def _filled(router: Peer, places: dict[str, str]) -> Peer:
    files = dict(router.files)
    for place, value in places.items():
        files = {name: text.replace(place, value) for name, text in files.items()}
    return replace(router, files=files)


@contextmanager
def _engines(case: Case, native: Path, options: HttpOptions) -> Iterator[list[tuple[str, int]]]:
    """The case's engines, each a process at an address of its own; or those that run already."""
    if options.engines:
        parts = [address.rpartition(":") for address in options.engines]
        addresses = [(host, int(port)) for host, _, port in parts]
        for host, port in addresses:
            _forget(host, port)
        yield addresses
        return
    specs = [spec for spec, count in case.engines for _ in range(count)]
    addresses = [(f"127.0.2.{11 + index}", ENGINE_PORT) for index in range(len(specs))]
    with tempfile.TemporaryDirectory(prefix="memroute-engines-") as name:
        servers = [
            Server(
                [sys.executable, "-m", "memroute_simulator", *_flags(spec, host, port, options)],
                url=f"http://{host}:{port}",
                log=Path(name) / host,
                environment={"PYTHONPATH": str(native)},
            )
            for spec, (host, port) in zip(specs, addresses, strict=True)
        ]
        with serving(*servers, within_seconds=START_SECONDS):
            yield addresses


def _flags(spec: EngineSpec, host: str, port: int, options: HttpOptions) -> Sequence[str]:
    """A simulated engine as the case has it."""
    layout = spec.layout
    num_bytes = spec.total_blocks * layout.block_size_tokens * layout.bytes_per_token
    return (
        "engine", "--model", _model_of(spec), "--served-model-name", options.model,
        "--host", host, "--port", str(port),
        "--tensor-parallel-size", str(spec.parallelism.tensor_parallel_size),
        "--kv-cache-memory-bytes", str(num_bytes),
        "--block-size", str(layout.block_size_tokens),
        "--max-model-len", str(spec.max_context_tokens),
        "--max-num-batched-tokens", str(spec.max_num_batched_tokens),
        "--simulator-accelerator", spec.accelerator.name,
        "--simulator-time-scale", f"{options.time_scale:g}",
        "--stream-interval", str(options.stream_interval),
    )  # fmt: skip


def _model_of(spec: EngineSpec) -> str:
    """The catalogue's name of what it runs."""
    return next(name for name in MODELS if architecture_for_model(name) == spec.architecture)


def _forget(host: str, port: int) -> None:
    """Empty an engine's prefix cache, if it lets us (vLLM does in its development mode)."""
    asked = urllib.request.Request(f"http://{host}:{port}/reset_prefix_cache", method="POST")
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=10):  # noqa: S310
        pass


def _preemptions(host: str, port: int) -> int:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return int(
        sum(
            float(line.rpartition(" ")[2])
            for line in page.splitlines()
            if line.startswith("vllm:num_preemptions_total{")
        )
    )
