"""``memroute simulate``: its options. The work is in ``program.py``.

Exit status 0: simulated; 2: the scenario makes no sense.
"""

from pathlib import Path
from typing import Annotated

import typer

from memroute_cli.simulate.asked import Asked
from memroute_cli.terminal.errors import told_errors
from memroute_cli.terminal.host_links import HostLinkOption
from memroute_cli.terminal.output import Output, OutputOption, WideOption
from memroute_cli.terminal.quantities import comma_list, number, seconds, tokens, whole


def simulate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            parser=str,
            help="Name on the hub, or a config.json; not needed with --file.",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Scenario in YAML: several fleets, mixed, with faults.",
        ),
    ] = None,
    accelerator: Annotated[
        list[str] | None,
        typer.Option(
            "--accelerator", "-a", metavar="NAME,...", help="One fleet for each. Default: H100."
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(parser=whole(), metavar="N", help="Replicas of each fleet.")
    ] = 1,
    tensor_parallel: Annotated[
        int, typer.Option(parser=whole(), metavar="N", help="Devices per replica.")
    ] = 1,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What joins the devices of a node: pcie5-peer, pcie5-slow, pcie4-peer, "
            "pcie4-slow, host (no peer access), nvlink3, nvlink4, nvlink5, or a measurement "
            "(17.4us-15GBps). Default: the card's NVLink, else the "
            "slower of what was measured.",
            show_default=False,
        ),
    ] = None,
    per_card: Annotated[
        int,
        typer.Option(
            parser=whole(), metavar="N", help="Replicas that share each card, in equal parts."
        ),
    ] = 1,
    sharing: Annotated[
        str,
        typer.Option(metavar="NAME", help="How they do: time-slices, or fractions (MPS)."),
    ] = "time-slices",
    quantization: Annotated[str, typer.Option(metavar="NAME", help="none, fp8, awq, …")] = "none",
    kv_cache_dtype: Annotated[str, typer.Option(metavar="NAME", help="auto or fp8, …")] = "auto",
    context: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="Longest sequence: 16384, 32k. Default: 16384, or what the model allows.",
        ),
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="KV cache on the host of each engine: 64GiB (vLLM's --kv-offloading-size).",
        ),
    ] = None,
    weights_offload: Annotated[
        str | None,
        typer.Option(
            metavar="GIB",
            help="Of each device's weights, what stays on the host (vLLM's --cpu-offload-gb).",
        ),
    ] = None,
    host_link: HostLinkOption = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="vllm or sglang: whose rules.")
    ] = "vllm",
    workload: Annotated[
        str,
        typer.Option(
            "--workload", "-w", metavar="NAME", help="A generator (see --list), or a trace file."
        ),
    ] = "azure-conv",
    requests: Annotated[
        int, typer.Option(parser=tokens, metavar="N", help="How many: 2000, 10k.")
    ] = 2000,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=number, metavar="N", help="Requests per second; default: the workload's own."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="NAME,...",
            help="Routing policies, to compare; see --list. Default: memroute.",
        ),
    ] = None,
    routers: Annotated[
        int,
        typer.Option(parser=whole(), metavar="N", help="Router replicas, without shared state."),
    ] = 1,
    scrape: Annotated[
        float, typer.Option(parser=seconds, metavar="TIME", help="Between scrapes of a replica.")
    ] = 1.0,
    ttft: Annotated[
        float,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            help="Target and SLO: time to first token, 1s or 800ms (ttftTargetMilliseconds).",
        ),
    ] = 1.0,
    tpot: Annotated[
        float,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            help="Target and SLO: time per output token, 50ms (tpotTargetMilliseconds).",
        ),
    ] = 0.05,
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Who is late when not all can be in time (overloadObjective): those with most "
            "work (requests), with the fewest tokens for their work (tokens), the newest (sizes).",
        ),
    ] = "requests",
    seed: Annotated[
        int, typer.Option(parser=whole(), metavar="N", help="The same seed gives the same run.")
    ] = 0,
    output: OutputOption = Output.TABLE,
    wide: WideOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw latencies, KV use and queues into this file (.png, .svg, .pdf).",
        ),
    ] = None,
    list_known: Annotated[
        bool, typer.Option("--list", help="List workloads and policies.")
    ] = False,
) -> None:
    """How would a fleet serve a workload? Latencies, goodput, KV use, without GPUs.

    Exit status 0: simulated; 2: the scenario makes no sense.
    """
    with told_errors("simulate"):
        from memroute_cli.simulate.program import list_all, run

        if list_known:
            list_all(output)
            return
        run(
            Asked(
                model=model, file=file, accelerators=tuple(comma_list(accelerator)),
                replicas=replicas, tensor_parallel=tensor_parallel, link=link,
                replicas_per_card=per_card, sharing=sharing,
                quantization=quantization,
                kv_cache_dtype=kv_cache_dtype, context_tokens=context, engine=engine,
                workload=workload, num_requests=requests, rate_per_second=rate,
                policies=tuple(comma_list(policy)), num_routers=routers, scrape_seconds=scrape,
                ttft_seconds=ttft, tpot_seconds=tpot, objective=objective, seed=seed,
                output=output, is_wide=wide, plot=plot, host_memory=host_memory,
                host_link=host_link, weights_offload=weights_offload,
            )
        )  # fmt: skip
