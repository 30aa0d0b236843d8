"""Every panel as a picture, while a real Prometheus watches an emulated fleet with faults in it.

Opt-in (``make pictures``): it writes ``docs/reference/dashboards/*.png``.
"""

import contextlib
import json
import os
import socket
import threading
import urllib.request

import pytest

from monitoring.pictures import FOLDER, draw_all
from monitoring.series import Source
from prometheus_rig import SCRAPE_SECONDS, Prometheus, pod_job
from watched_fleet import watched_fleet

pytestmark = [
    pytest.mark.skipif(
        "MEMROUTE_PICTURES" not in os.environ, reason="make pictures draws them, in five minutes"
    ),
    pytest.mark.timeout(900),
]
MAX_BYTES = 300_000
MINUTES = 4
NUM_CLIENTS, ANSWER_TOKENS = 24, 2500


def has_watched_for(server, seconds):
    """Whether every page has been read for so long, nearly without a gap."""
    least = 0.9 * seconds / SCRAPE_SECONDS
    return lambda: [
        n for _, n in server.query(f"min(count_over_time(up[{seconds}s]))") if n > least
    ]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def take_memory(fleet, value):
    """Another tenant's bytes on the first device of gpu-a."""
    fault = f"simulator.memroute.dev/foreign-hbm{value}"
    fleet.cluster.kubectl("annotate", "node", "gpu-a", "--overwrite", fault)


def slow_down(fleet, ratio):
    """The one replica of team-b takes so many times longer for a step."""
    (pod,) = fleet.cluster.get("pods", "-n", "team-b")
    url = f"http://{pod['status']['podIP']}:8000/simulator/faults"
    body = json.dumps({"slowdown_ratio": ratio}).encode()
    urllib.request.urlopen(url, body, timeout=30).close()


@contextlib.contextmanager
def many_clients(fleet):
    """Long answers for a crowd, until the block ends: caches fill, and some wait."""
    over = threading.Event()

    def ask(address):
        while not over.is_set():
            fleet.ask(address, "chat", is_stream=True, max_tokens=ANSWER_TOKENS)

    addresses = list(fleet.routers().values())
    clients = [
        threading.Thread(target=ask, args=(addresses[number % len(addresses)],), daemon=True)
        for number in range(NUM_CLIENTS)
    ]
    for one in clients:
        one.start()
    yield
    over.set()
    for one in clients:
        one.join(timeout=120)


def test_every_dashboard_is_drawn_from_a_fleet_with_something_to_see(repository, helm, tmp_path):
    """A reader sees what a panel is for where something happens: foreign memory, a slow engine."""
    chart = repository / "helm" / "memroute"
    with watched_fleet(helm, chart, tmp_path) as fleet:
        job = pod_job("kubernetes-pods", honor_labels=True, path=fleet.targets)
        with Prometheus(tmp_path / "prometheus", [job], port=free_port()) as server:
            server.wait_for("a quiet minute", has_watched_for(server, 60), 120)
            take_memory(fleet, '={"0": 21474836480}')
            server.wait_for("another", has_watched_for(server, 120), 120)
            slow_down(fleet, 30.0)
            server.wait_for("half of one", has_watched_for(server, 150), 120)
            slow_down(fleet, 1.0)
            with many_clients(fleet):
                server.wait_for("a crowd", has_watched_for(server, 60 * MINUTES - 30), 180)
            server.wait_for("the end", has_watched_for(server, 60 * MINUTES - 5), 180)
            source = Source(server.url, minutes=MINUTES, rate_interval="30s")
            pictures = draw_all(source, repository / FOLDER)
    for path in pictures:
        assert path.stat().st_size < MAX_BYTES, path
