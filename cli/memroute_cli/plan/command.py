"""``memroute plan``: its options. The work is in ``program.py``.

Exit status 0: everything fits; 1: something does not; 2: the question makes no sense.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from memroute_cli.cluster.commands import OPERATOR_NAMESPACE, OperatorNamespaceOption
from memroute_cli.plan.asked import Asked
from memroute_cli.terminal.errors import told_errors
from memroute_cli.terminal.host_links import HostLinkOption
from memroute_cli.terminal.output import Output, OutputOption, WideOption
from memroute_cli.terminal.quantities import comma_list, number, tokens, whole


def _paths(values: Iterable[str]) -> Iterator[str]:
    """Names by comma; a path may have commas of its own."""
    for value in values:
        yield from [value] if value and Path(value).exists() else comma_list([value])


def plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            parser=str,
            help="owner/name as on the hub, owner/name@revision for one of its versions, or the "
            "path of a config.json or of its folder. Names of --list need no network.",
            show_default=False,
        ),
    ] = None,
    *,
    accelerator: Annotated[
        list[str] | None,
        typer.Option(
            "--accelerator",
            "-a",
            metavar="NAME,...",
            help="Which accelerators: H100, L4, a product label, a MIG slice (H100/1g.10gb). "
            "Default: L4, L40S, A100-80, H100, H200, B200; those of a fleet with --cluster.",
        ),
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Say what fits now on the nodes of the cluster of the kubeconfig."
        ),
    ] = False,
    inventory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE,...",
            help="The same of a saved fleet: `kubectl get nodes,pods -A -o json > FILE`; and, for "
            "shared devices, the ConfigMap memroute-fleet in a file of its own.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="Longest sequence: 32768, 32k. Default: 8192, or what the model allows.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            parser=whole(),
            metavar="N",
            help="Sequences of the whole context that must fit at once.",
        ),
    ] = 1,
    prompt_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Prompt of a usual request.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Answer of a usual request.")
    ] = 256,
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto (the highest that fits), none (as published), fp8, awq, …"
        ),
    ] = "auto",
    kv_cache_dtype: Annotated[
        str, typer.Option(metavar="NAME", help="auto or fp8, and vLLM's others.")
    ] = "auto",
    tensor_parallel: Annotated[
        str, typer.Option(metavar="N", help="Devices per replica; auto: the fewest that fit.")
    ] = "auto",
    link: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What joins the devices of a node: pcie5-peer, pcie5-slow, pcie4-peer, "
            "pcie4-slow, host (no peer access), nvlink3, nvlink4, nvlink5, or a measurement "
            "(17.4us-15GBps). Default: as the fleet's nodes say, else the card's NVLink, else "
            "the slower of what was measured.",
            show_default=False,
        ),
    ] = None,
    per_card: Annotated[
        int,
        typer.Option(
            parser=whole(),
            metavar="N",
            help="Say what N such replicas keep of their throughput that share one card, by the "
            "requests on it: in time slices, and in fractions (MPS).",
        ),
    ] = 1,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|FILE",
            help="Bytes of the weights, of an unknown family, format or tower; of a known one they "
            "are compared, and the larger counts: 14GB, 13.5GiB, a number of bytes, a "
            "model.safetensors.index.json, or a .safetensors file. Default: those beside a "
            "config.json.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which GGUF file of a repository that has several, or a pattern (*Q4_K_M.gguf); "
            "llama.cpp serves it.",
        ),
    ] = None,
    start_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start log of a vLLM that ran this model: what it measured replaces our ranges.",
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PER_HOUR,...", help="Prices of one accelerator: H100=2.50,L40S=1.10."
        ),
    ] = None,
    host_memory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE,...",
            help="What KV cache on the host would buy, for one engine: 64GiB,256GiB.",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --host-memory, what keeps it: native (vLLM's own) or lmcache (in the "
            "engine's process; its image has to have it).",
        ),
    ] = "native",
    weights_offload: Annotated[
        str | None,
        typer.Option(
            metavar="GIB|auto",
            help="What it changes to keep so many GiB of each device's weights on the host (vLLM's "
            "--cpu-offload-gb); auto: as few as make the model fit.",
        ),
    ] = None,
    host_link: HostLinkOption = None,
    conversations: Annotated[
        int | None,
        typer.Option(
            parser=whole(),
            metavar="N",
            help="With --host-memory: conversations alive at once on one replica. Default: 1000.",
        ),
    ] = None,
    reuse: Annotated[
        float,
        typer.Option(
            parser=number,
            metavar="SHARE",
            help="With --host-memory: share of a prompt that was there before, 0 to 1.",
        ),
    ] = 0.5,
    hub_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The hub that knows models which the catalogue does not. Default: HF_ENDPOINT, "
            "else the public one.",
        ),
    ] = None,
    hub_token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds a token for gated and private models. Default: HF_TOKEN, else what "
            "`hf auth login` has saved.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Ask no hub: the catalogue, and what was read before. HF_HUB_OFFLINE=1 as well.",
        ),
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every precision and number of devices.")
    ] = False,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --cluster. Default: KUBECONFIG, else ~/.kube/config."
        ),
    ] = None,
    operator_namespace: OperatorNamespaceOption = OPERATOR_NAMESPACE,
    manifest: Annotated[
        bool,
        typer.Option(
            "--manifest", help="Print ModelDeployments instead: ready for `kubectl apply -f -`."
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw where the bytes go into this file (.png, .svg); with --host-memory, what "
            "it buys.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    wide: WideOption = False,
    list_known: Annotated[
        bool, typer.Option("--list", help="List the models and accelerators that are known.")
    ] = False,
) -> None:
    """Does a model fit, on which accelerators, for how many users, how fast, at what price?

    Exit status 0: everything fits; 1: something does not; 2: the question makes no sense.
    """
    with told_errors("plan"):
        if list_known:
            from memroute_cli.plan.known import show_known

            show_known(output)
            return
        from memroute_cli.plan.program import run

        asked = Asked(
            models=tuple(_paths(models or ())), accelerators=tuple(comma_list(accelerator)),
            inventory=tuple(map(Path, _paths(inventory or ()))),
            operator_namespace=operator_namespace, is_on_cluster=cluster, kubeconfig=kubeconfig,
            context_tokens=context, concurrency=concurrency, prompt_tokens=prompt_tokens,
            output_tokens=output_tokens, precision=precision, kv_cache_dtype=kv_cache_dtype,
            tensor_parallel=tensor_parallel, link=link, num_per_card=per_card,
            checkpoint=checkpoint, file=file,
            start_log=start_log, prices=tuple(comma_list(price)), hub_endpoint=hub_endpoint,
            hub_token_file=hub_token_file, is_offline=offline, shows_every=every, output=output,
            wants_manifest=manifest, is_wide=wide, plot=plot,
            host_memory=tuple(comma_list(host_memory)), host_link=host_link,
            conversations=conversations, reuse=reuse, weights_offload=weights_offload,
            backend=backend,
        )  # fmt: skip
        raise typer.Exit(0 if run(asked) else 1)
