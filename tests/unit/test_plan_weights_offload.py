"""``memroute plan --weights-offload``, and what it is made of: footprint, step, both ways."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from memroute.bandwidth import StepBatch, StepTime
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.errors import UnsupportedShapeError
from memroute.footprint import EngineType, ReplicaShape, replica_footprint
from memroute.hierarchy import host_link_of_text
from memroute.units import GIB
from memroute_cli.main import app

RUNNER = CliRunner()


def plan(*arguments):
    """Exit status, output and errors of ``memroute plan``."""
    result = RUNNER.invoke(app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


def offloaded(*arguments):
    """Exit status, and the section for programs."""
    status, text, errors = plan(*arguments, "--output", "json")
    assert text, errors
    return status, json.loads(text)["plans"][0]["weightsOffload"]


def shape(model="Qwen/Qwen3-32B", **facts):
    return ReplicaShape(
        architecture=architecture_for_model(model), max_context_tokens=8192, concurrency=1, **facts
    )


def test_what_stays_on_the_host_is_not_on_the_device():
    """To the byte: all else of the footprint is as it was."""
    plain, offload = (
        replica_footprint(shape(weights_on_host_bytes=size)) for size in (0, 20 * GIB)
    )
    assert plain.total_bytes - offload.total_bytes == 20 * GIB
    assert offload.kv_cache_bytes_within(60 * GIB) - plain.kv_cache_bytes_within(60 * GIB) > 0
    assert offload.kv_cache_bytes == plain.kv_cache_bytes


def test_only_layers_can_stay_there():
    """Qwen3-32B: 61 GiB of weights, of which embedding and head are 2 x 151,936 x 5,120 x 2."""
    assert replica_footprint(shape(weights_on_host_bytes=57 * GIB)).weights_bytes > 0
    with pytest.raises(UnsupportedShapeError, match=r"layers have 58\.\d GiB"):
        replica_footprint(shape(weights_on_host_bytes=60 * GIB))


@pytest.mark.parametrize(
    ("model", "facts", "words"),
    [
        ("Qwen/Qwen3-8B", {"engine": EngineType.SGLANG}, "vLLM alone"),
        ("openai/gpt-oss-20b", {}, "several kinds of KV cache"),
    ],
)
def test_what_no_engine_does_is_refused(model, facts, words):
    with pytest.raises(UnsupportedShapeError, match=words):
        replica_footprint(shape(model, weights_on_host_bytes=GIB, **facts))


def test_every_step_waits_for_the_link_and_experts_only_as_far_as_they_are_read():
    """10 GiB at 52 GB/s are 206 ms; of 128 experts with 8 a token reads a sixteenth."""
    h100 = accelerator_by_name("H100")
    dense = StepTime.of(architecture_for_model("Qwen/Qwen3-32B"), h100)
    slow = replace(dense, host_read_seconds=0.206)
    for batch in (
        StepBatch(num_decodes=1, decode_context_tokens=100),
        StepBatch(prefills=((9, 0),)),
    ):
        assert slow.step_seconds(batch) - dense.step_seconds(batch) == pytest.approx(0.206)
    assert slow.step_seconds(StepBatch()) == 0
    mixed = StepTime.of(architecture_for_model("Qwen/Qwen3-30B-A3B"), h100)
    alone, many = (
        replace(mixed, host_read_seconds=0.206).decode_seconds(count, 100)
        - mixed.decode_seconds(count, 100)
        for count in (1, 256)
    )
    assert 0.02 < alone < 0.05
    assert many == pytest.approx(0.206, rel=0.02)


def test_a_plan_shows_both_ways_with_the_same_devices():
    """More users, slower steps, fewer tokens: who has room without is told so by the numbers."""
    status, (found,) = offloaded(
        "Qwen/Qwen3-32B", "-a", "H100", "--weights-offload", "20", "--price", "H100=2.5"
    )
    without, with_weights = found["without"], found["with"]
    assert status == 0
    assert not found["fitsOnlySo"]
    assert with_weights["weightsOnHostGiB"] == 20
    assert with_weights["hostBytes"] == 20 * GIB
    assert with_weights["readSeconds"] == pytest.approx(20 * GIB / 52e9)
    assert with_weights["users"] > 2 * without["users"]
    assert with_weights["stepSeconds"] - without["stepSeconds"] > with_weights["readSeconds"]
    assert with_weights["costPerMillionTokens"] > 2 * without["costPerMillionTokens"]
    assert (without["devices"], without["precision"]) == (
        with_weights["devices"], with_weights["precision"],
    )  # fmt: skip


@pytest.mark.slow
def test_a_model_may_fit_only_so():
    """The fewest GiB; the plan's status says that there is a way."""
    asked = ("Qwen/Qwen3-32B", "-a", "L40S", "--tensor-parallel", "1", "--precision", "none")
    assert plan(*asked)[0] == 1
    status, (found,) = offloaded(*asked, "--weights-offload", "auto")
    assert status == 0
    assert found["fitsOnlySo"]
    assert not found["without"]["fits"]
    size = found["with"]["weightsOnHostGiB"]
    short = ("--weights-offload", str(int(size) - 2))
    assert not offloaded(*asked, *short)[1][0]["with"]["fits"]
    _, text, _ = plan(*asked, "--weights-offload", "auto")
    assert "It fits only so." in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_what_fits_is_left_alone():
    status, (found,) = offloaded("Qwen/Qwen3-8B", "-a", "H100", "--weights-offload", "auto")
    assert status == 0
    assert found["with"] is None
    _, text, _ = plan("Qwen/Qwen3-8B", "-a", "H100", "--weights-offload", "auto")
    assert "it fits without" in text


def test_a_measured_link_counts():
    """Half of the rate, twice the time."""
    asked = ("Qwen/Qwen3-32B", "-a", "H100", "--weights-offload", "20GiB")
    _, (usual,) = offloaded(*asked)
    _, (slow,) = offloaded(*asked, "--host-link", "26-25GBps")
    assert slow["with"]["readSeconds"] == pytest.approx(2 * usual["with"]["readSeconds"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights-offload", "lots"), "--weights-offload lots: whole GiB"),
        (("--weights-offload", "0"), "whole GiB"),
        (("--weights-offload", "8", "--host-link", "pcie6"), "did you mean"),
        (("--host-link", "pcie5"), "--weights-offload"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    status, _, errors = plan("Qwen/Qwen3-8B", "-a", "H100", *arguments)
    assert status == 2
    assert words in " ".join(errors.split())


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("55.1-56.4GBps", (55.1e9, 56.4e9)), ("3.7us-26GBps", (26e9, 26e9)),
        ("PCIe-5", (52e9, 52e9)), ("0GBps", None), ("fast", None), ("1us", None),
    ],
)  # fmt: skip
def test_a_link_is_a_name_or_a_measurement(text, rates):
    link = host_link_of_text(text)
    found = None if link is None else (link.read_bytes_per_second, link.write_bytes_per_second)
    assert found == rates


def test_a_measured_copy_counts():
    """64 KiB at 50 GB/s are 1.31 us; 4 us more for each copy: 12.3 GB/s."""
    link = host_link_of_text("4us-50GBps")
    assert link.read_rate(65536) == pytest.approx(65536 / (65536 / 50e9 + 4e-6))
    assert link.source == "as measured"
