"""``memroute plan --host-memory``: what it prints, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from memroute.units import GIB
from memroute_cli.main import app

RUNNER = CliRunner()
ASKED = ("Qwen/Qwen3-32B", "-a", "H100", "--context", "32k", "--prompt-tokens", "8000")


def plan(*arguments):
    """Exit status, output and errors of ``memroute plan``."""
    result = RUNNER.invoke(app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_more_memory_keeps_more_conversations():
    """The answer that people want: how much is worth buying."""
    status, text, _ = plan(*ASKED, "--host-memory", "64GiB,256GiB", "--output", "json")
    found = json.loads(text)["plans"][0]["hostMemory"]
    none, some, more = found["sizes"]
    assert status == 0
    assert found["link"] == "pcie5"
    assert [one["hostBytes"] for one in (none, some, more)] == [0, 64 * GIB, 256 * GIB]
    assert none["keptConversations"] < some["keptConversations"] < more["keptConversations"]
    assert none["ttftSeconds"] > more["ttftSeconds"]


def test_a_table_says_from_where_on_fetching_pays():
    """Below it the tier costs; an engine fetches all the same."""
    _, text, _ = plan(*ASKED, "--host-memory", "64GiB", "--price", "H100=2.5")
    assert "Fetching beats computing from" in text
    assert "PER 1M" in text.partition("host memory")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_a_slow_link_says_that_it_never_pays():
    """A tier is not always a good idea."""
    _, text, _ = plan(
        "Qwen/Qwen3-0.6B", "-a", "B200", "--host-memory", "64GiB", "--host-link", "pcie3"
    )
    assert "Fetching never beats computing again" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host-link", "pcie5"), "needs --host-memory"),
        (("--host-memory", "lots"), "--host-memory lots: a size such as 64GiB"),
        (("--host-memory", "64"), "--host-memory 64: that is 64 bytes; 64GiB is a size"),
        (("--host-memory", "1GiB", "--host-link", "pcie6"), "did you mean"),
        (("--host-memory", "1GiB", "--reuse", "1.5"), "--reuse 1.5"),
        (("--host-memory", "1GiB", "--conversations", "0"), "--conversations must be at least 1"),
        (("--host-memory", "2MB"), "hold no chunk"),
        (("--host-memory", "64GiB", "--backend", "lmcach"), "did you mean lmcache"),
        (("--backend", "lmcache"), "--backend needs --host-memory"),
        (("--host-memory", "512MiB", "--backend", "lmcache"), "one each"),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_words_of_the_question(arguments, words):
    """The answer names the option."""
    status, _, errors = plan(*ASKED, *arguments)
    assert status == 2
    assert words in " ".join(errors.split())


@pytest.mark.slow
def test_a_plot_shows_what_each_size_buys(tmp_path):
    """Three curves against GiB, in place of the bytes on the device."""
    picture = tmp_path / "tier.svg"
    status, text, _ = plan(*ASKED, "--host-memory", "64GiB,256GiB", "--plot", str(picture))
    assert status == 0
    assert "drawn into" in text
    assert picture.stat().st_size > 1000


def test_what_joins_the_devices_counts_for_computing_too():
    """Two ranks over a slow link compute longer, so a fetch saves more: the named link is used."""

    def cold(link):
        asked = ("Qwen/Qwen3-32B", "-a", "L40S", "--tensor-parallel", "4", "--precision", "none")
        _, text, _ = plan(*asked, "--host-memory", "64GiB", "--link", link, "--output", "json")
        return json.loads(text)["plans"][0]["hostMemory"]["sizes"][0]["ttftSeconds"]

    assert cold("pcie4-slow") > 1.2 * cold("pcie4-peer")


def test_lmcache_is_sized_by_rank_and_moves_whole_chunks():
    """Two ranks of 32 GiB; 256 tokens of Qwen3-32B are 32 MiB on each, in one copy."""
    sizes = ("--tensor-parallel", "2", "--host-memory", "64GiB", "--output", "json")
    _, native, _ = plan(*ASKED, *sizes)
    _, text, _ = plan(*ASKED, *sizes, "--backend", "lmcache")
    (own, other) = (json.loads(one)["plans"][0]["hostMemory"] for one in (native, text))
    assert (own["backend"], other["backend"]) == ("native", "lmcache")
    assert other["copyBytes"] == 256 * 64 * 4 * 128 * 2 * 2
    assert other["sizes"][1]["hostTokens"] == 32 * GIB // other["copyBytes"] * 256
    assert other["breakEvenTokens"] % 256 == 0
    assert other["sizes"][1]["ttftSeconds"] < own["sizes"][1]["ttftSeconds"]
    _, told, _ = plan(*ASKED, *sizes[:4], "--backend", "lmcache")
    assert "LMCACHE_MAX_LOCAL_CPU_SIZE=32" in " ".join(told.split())


def test_lmcache_keeps_no_model_of_several_kinds_of_cache():
    """Its connector in the engine takes one kind."""
    _, _, errors = plan(
        "openai/gpt-oss-20b", "-a", "H100", "--host-memory", "64GiB", "--backend", "lmcache"
    )
    assert "one kind of KV cache" in " ".join(errors.split())
