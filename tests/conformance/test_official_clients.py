"""The router before a real vLLM: users' own clients, unchanged, and the narrow reading."""

import asyncio
import contextlib
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from live import TINY, make_model, server

import client_conversations

ROUTER = Path(__file__).parents[2] / ".venv" / "bin" / "memroute-router"
LISTENING = r"(?s)operations listening \S+ ops_port=(\d+).* listening host=\S+ port=(\d+)"
CONVERSATIONS = (
    client_conversations.openai_chats,
    client_conversations.openai_completions,
    client_conversations.openai_responses,
    client_conversations.openai_errors,
    client_conversations.anthropic_messages,
)


@contextlib.contextmanager
def router(folder, engine):
    """The addresses of a router process before one engine: for clients, and for operations."""
    config, log = folder / "router.yaml", folder / "router.log"
    config.write_text(f"models:\n  - name: tiny\n    replicas: [{engine}]\n")
    command = [ROUTER, "--config", config, "--host", "127.0.0.1", "--port", "0"]
    command += ["--ops-port", "18791"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output)
        try:
            while not (told := re.search(LISTENING, log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            time.sleep(1.5)  # it has been read
            yield f"http://127.0.0.1:{told[2]}", f"http://127.0.0.1:{told[1]}"
        finally:
            process.terminate()
            process.wait(10)
    assert "lacks a metric" not in log.read_text()


@pytest.mark.timeout(600)
def test_official_clients_work_unchanged_through_the_router(tmp_path):
    """The engine says 4,096 tokens in 32 blocks of 128; the null block is not among them."""
    folder = make_model(tmp_path / "model", TINY)
    flags = ["--max-model-len", "1024", "--kv-cache-memory-bytes", str(4 * 1024**2)]
    with server(folder, 18_790, flags, {}) as engine, router(tmp_path, engine) as both:
        base, operations = both
        for conversation in CONVERSATIONS:
            asyncio.run(conversation(base, "tiny"))
        client_conversations.curl(base, "tiny")
        with urllib.request.urlopen(f"{operations}/metrics") as answer:
            page = answer.read().decode()
        assert re.search(r"memroute_router_kv_capacity_tokens\{.*\} 3968", page)
        assert not re.search(r"memroute_router_reserved_tokens\{.*\} [^0]", page)
        assert not re.search(r"memroute_router_scrape_errors_total\{.*\} [^0]", page)
