import json

import pytest

from bench.simulator.__main__ import main
from bench.simulator.ground_truth import Figure, compare
from bench.simulator.recorded import RunError, read_run, runs_in
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import Parallelism
from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.replica import Ticket, VirtualReplica
from memroute_simulator.workloads import workload_by_name


def make_run(folder, *, spec, meta, workload_name="", slowdown=1.0, count=120):
    """A run as a real engine would have recorded it, by an engine that is so much slower."""
    loop = VirtualLoop()
    replica = VirtualReplica(loop, spec.schedulers(), spec.step_time)
    replica.slowdown_ratio = slowdown
    chats = workload_by_name("azure-conv", num_requests=count, rate_per_second=8, seed=2,
                             max_context_tokens=8000)  # fmt: skip
    tickets = []
    for session in chats.sessions:
        asked = session.requests[0]
        tickets.append(
            Ticket(
                request=EngineRequest(
                    request_id="", num_prompt_tokens=asked.num_prompt_tokens,
                    num_output_tokens=asked.num_output_tokens,
                    content=SegmentedContent(asked.prompt, asked.output_id),
                )
            )
        )  # fmt: skip
        loop.at(session.start_seconds, lambda t=tickets[-1]: replica.submit(t))
    samples = []

    def sample():
        reading = replica.reading()
        samples.append((loop.now_seconds, reading))
        if replica.num_in_flight or loop.now_seconds < 5:
            loop.after(1.0, sample)

    loop.at(1.0, sample)
    loop.run()
    folder.mkdir(parents=True)
    lines = []
    for number, (session, ticket) in enumerate(zip(chats.sessions, tickets, strict=True)):
        lines.append(
            json.dumps(
                {
                    "request_id": f"bench-{number}",
                    "input_toks": ticket.request.num_prompt_tokens,
                    "output_toks": ticket.request.num_output_tokens,
                    "arrival_time": 1.7e9 + session.start_seconds,
                    "queued_ts": 500 + ticket.queued_seconds,
                    "first_token_ts": 500 + ticket.first_token_seconds,
                    "last_token_ts": 500 + ticket.last_token_seconds,
                }
            )
        )
    (folder / "requests.jsonl").write_text("\n".join(lines))
    rows = ["t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"]
    rows += [f"{t},0,0,{r.num_running},{r.num_waiting},{100 * r.kv_cache_utilization_ratio}"
             for t, r in samples]  # fmt: skip
    (folder / "timeseries.csv").write_text("\n".join(rows))
    (folder / "meta.json").write_text(json.dumps(meta))
    if workload_name:
        first = chats.sessions[0].start_seconds
        (folder.parent / f"{workload_name}.jsonl").write_text(
            "\n".join(
                json.dumps(
                    {
                        "arrival_time_ns": int((s.start_seconds - first) * 1e9),
                        "input_length": s.requests[0].num_prompt_tokens,
                        "output_length": s.requests[0].num_output_tokens,
                        "hash_ids": [],
                    }
                )
                for s in chats.sessions
            )
        )


def spec_of(model="Qwen/Qwen3-32B", accelerator="RTX-PRO-6000", tp=2, blocks=None):
    return EngineSpec(
        architecture=architecture_for_model(model),
        accelerator=accelerator_by_name(accelerator),
        parallelism=Parallelism(tensor_parallel_size=tp),
        max_num_seqs=128,
        utilization_ratio=0.9,
        num_blocks=blocks,
        max_context_tokens=32_768,
    )


META = {
    "model": "Qwen/Qwen3-32B",
    "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 128,
                      "max_num_batched_tokens": 2048, "max_model_len": 32_768},
}  # fmt: skip


@pytest.mark.slow
def test_a_run_of_another_model_and_parallelism_is_read_from_its_folder(tmp_path):
    """Accelerator by the folder's name, blocks computed, lengths without the workload."""
    make_run(tmp_path / "RTXPRO6000_Qwen3-32B", spec=spec_of(), meta=META)
    run = read_run(tmp_path / "RTXPRO6000_Qwen3-32B", None)
    assert run.spec.accelerator.name == "RTX-PRO-6000"
    assert run.spec.parallelism.tensor_parallel_size == 2
    assert not run.are_blocks_recorded
    assert run.spec.total_blocks == spec_of().total_blocks
    assert run.num_preemptions is None
    comparison = compare(run)
    assert len(comparison.figures) == 15
    # Peaks of a few requests hang on the second at which they are sampled.
    latencies = [figure for figure in comparison.figures if figure.unit == "s"]
    assert len(latencies) == 12
    assert not any(figure.is_off for figure in latencies)


@pytest.mark.slow
def test_an_engine_that_is_a_fifth_slower_is_found_out(tmp_path, capsys):
    make_run(tmp_path / "RTXPRO6000_Qwen3-32B", spec=spec_of(), meta=META, slowdown=1.25)
    assert main(["--ground-truth", str(tmp_path)]) == 1
    assert "OFF" in capsys.readouterr().out
    assert main(["--ground-truth", str(tmp_path), "--output", "json"]) == 1
    (run,) = json.loads(capsys.readouterr().out)
    tpot = next(f for f in run["figures"] if f["name"] == "TPOT mean")
    assert tpot["error_ratio"] == pytest.approx(1 / 1.25 - 1, abs=0.05)
    assert tpot["low"] < tpot["predicted"] < tpot["high"]


@pytest.mark.slow
def test_recorded_blocks_workload_and_preemptions_are_used(tmp_path):
    """A pool of 700 blocks: the cache is full, and how often requests were preempted is known."""
    meta = META | {
        "dataset_path": "workloads/chats.jsonl",
        "kv_cache": {"num_gpu_blocks": 700, "block_size": 16, "enable_prefix_caching": True},
        "hardware": {"device_name": "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"},
        "num_preemptions": 12,
    }
    make_run(tmp_path / "some-name", spec=spec_of(blocks=700), meta=meta, workload_name="chats.x")
    run = read_run(tmp_path / "some-name", None)
    assert (run.spec.total_blocks, run.num_preemptions) == (700, 12)
    figures = {figure.name: figure for figure in compare(run).figures}
    assert figures["preemptions"].predicted > 0
    assert figures["preemptions"].real == 12
    plots = tmp_path / "plots"
    main(["--ground-truth", str(tmp_path), "--plot", str(plots)])
    assert (plots / "some-name.png").stat().st_size > 10_000


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(RunError, match="no run under"):
        runs_in(tmp_path, None)
    (tmp_path / "X").mkdir()
    (tmp_path / "X" / "meta.json").write_text("{}")
    with pytest.raises(RunError, match="not a readable run"):
        runs_in(tmp_path, None)
    make_run(tmp_path / "Y" / "unknown-gpu", spec=spec_of(), meta=META, count=3)
    with pytest.raises(RunError, match="is an accelerator"):
        read_run(tmp_path / "Y" / "unknown-gpu", None)
    make_run(tmp_path / "Z" / "H100_x", spec=spec_of(), meta=META | {"model": "no/model"}, count=3)
    odd = META | {"engine_kwargs": META["engine_kwargs"] | {"quantization": "odd"}}
    make_run(tmp_path / "V" / "H100_x", spec=spec_of(), meta=odd, count=3)
    with pytest.raises(RunError, match="cannot be replayed"):
        read_run(tmp_path / "V" / "H100_x", None)
    with pytest.raises(RunError, match="no configuration of no/model"):
        read_run(tmp_path / "Z" / "H100_x", tmp_path)


def test_a_configuration_from_the_folder_wins_over_the_catalogue(tmp_path):
    make_run(tmp_path / "H100_x", spec=spec_of(), meta=META, count=3)
    (tmp_path / "Qwen--Qwen3-32B.json").write_text(
        json.dumps(
            {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 2,
             "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 512,
             "vocab_size": 1000}
        )
    )  # fmt: skip
    assert read_run(tmp_path / "H100_x", tmp_path).spec.architecture.num_layers == 2


@pytest.mark.parametrize(
    ("model", "layers"),
    [("Qwen/Qwen3-30B-A3B-Instruct-2507", 48), ("Qwen/Qwen3-32B-Base", 64),
     ("Qwen/Qwen3-32B-AWQ", None)],
)  # fmt: skip
def test_a_run_of_a_model_that_was_trained_on_is_of_the_same_matrices(tmp_path, model, layers):
    """Instruct and base are one shape; what is quantized is not."""
    make_run(tmp_path / "H100_x", spec=spec_of(), meta=META | {"model": model}, count=3)
    if layers is None:
        with pytest.raises(RunError, match="no configuration"):
            read_run(tmp_path / "H100_x", None)
        return
    assert read_run(tmp_path / "H100_x", None).spec.architecture.num_layers == layers


def test_a_run_of_experts_on_two_data_parallel_ranks_is_replayed_as_one_that_steps_together(
    tmp_path,
):
    """``enable_expert_parallel`` is read, and a link that the run names."""
    meta = META | {
        "model": "Qwen/Qwen3-30B-A3B", "hardware": {"link": "pcie5-peer"},
        "engine_kwargs": META["engine_kwargs"] | {
            "tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": True,
        },
    }  # fmt: skip
    make_run(tmp_path / "RTXPRO6000_x", spec=spec_of(), meta=meta, count=3)
    spec = read_run(tmp_path / "RTXPRO6000_x", None, "host").spec
    assert spec.steps_together
    assert spec.parallelism.expert_parallel
    assert spec.step_time.link.name == "pcie5-peer"


def test_a_figure_is_off_beyond_a_tenth():
    facts = {"run": "r", "name": "n", "unit": "s", "low": 0, "high": 0}
    assert not Figure(predicted=1.1, real=1.0001, **facts).is_off
    assert Figure(predicted=1.1, real=0.99, **facts).is_off
    assert Figure(predicted=1.1, real=None, **facts).error_ratio is None


@pytest.mark.parametrize("command", [[], ["fit"], ["speed"], ["study"]])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage:" in capsys.readouterr().out
