"""A fleet for the live map: a stub API server, the real operator on it, a real router process.

Engines are one small server on many loopback addresses: their metrics fill and drain, their answers
take a while. Nodes have eight H100 each; some are shared, one is cordoned, one says nothing of its
devices, others' processes use memory of some.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import replace
from pathlib import Path

import yaml

from memroute.units import MIB
from memroute_kube.resources import ANNOTATION_KV_CAPACITY_TOKENS
from memroute_operator.readings.fleet_map import fleet_map
from one_authority import authority_file
from operator_rig import mdep, node, operator_rig, reading
from ports import free_port

SYSTEM = "memroute-system"
NAME = "memroute-router-7c9d6b5f4-x2x8k"
# ModelDeployment → model, share of the devices that its replicas take.
MODELS = {
    "chat": ("Qwen/Qwen3-8B", "Exclusive", 0.4),
    "code": ("Qwen/Qwen2.5-32B-Instruct", "Exclusive", 0.3),
    "draft": ("Qwen/Qwen3-0.6B", "Shared", 0.3),
    "search": ("Qwen/Qwen3-4B", "Shared", 0.2),
}
BLOCK_TOKENS = 16
BUSY = "code"
"""Its replicas are full: requests wait for them."""


class Engines:
    """All engines. ``phases``: address → where its KV cache stands in its round."""

    def __init__(self, rng):
        self.rng = rng
        self.models = {}
        self.capacity = {}
        self.began = time.monotonic()

    def ratio(self, address):
        base, wave = (0.97, 0.025) if self.models[address] == BUSY else (0.45, 0.42)
        phase = zlib.crc32(address.encode()) % 997 / 997 * 2 * math.pi
        return base + wave * math.sin(phase + (time.monotonic() - self.began) / 7)

    def metrics(self, address):
        ratio, blocks = self.ratio(address), self.capacity[address] // BLOCK_TOKENS
        running = round(40 * ratio)
        seconds = time.monotonic() - self.began
        config = f'block_size="{BLOCK_TOKENS}",num_gpu_blocks="{blocks}",engine="0"'
        values = {
            "kv_cache_usage_perc": round(ratio, 4),
            "num_requests_running": running,
            "num_requests_waiting": 0,
            "num_preemptions_total": 0,
            "prompt_tokens_total": int(4000 * seconds),
            "generation_tokens_total": int(900 * seconds),
        }
        lines = [f'vllm:{name}{{engine="0"}} {value}' for name, value in values.items()]
        return "\n".join([f"vllm:cache_config_info{{{config}}} 1", *lines, ""]).encode()

    async def serve(self, reader, writer):
        address = writer.get_extra_info("sockname")[0]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                if length:
                    await reader.readexactly(int(length))
                if head.startswith(b"GET"):
                    body, kind = self.metrics(address), b"text/plain"
                else:
                    await asyncio.sleep(self.rng.uniform(0.3, 2.5))
                    usage = {"prompt_tokens": 900, "completion_tokens": 120}
                    body, kind = json.dumps({"usage": usage}).encode(), b"application/json"
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
                    % (kind, len(body), body)
                )
                await writer.drain()
        writer.close()


class MapRig:
    """Everything, in a thread of its own. A context manager."""

    def __init__(self, *, num_nodes=50, seed=7, traffic=25.0, model_scale=1.0):
        """``traffic``: requests per second."""
        self.num_nodes = num_nodes
        self.traffic = traffic
        self.model_scale = model_scale
        self.pods = {}
        self.promised = {}
        """(node, device) → bytes, as exporters would see the replicas use them."""
        self.rng = random.Random(seed)
        self.engines = Engines(self.rng)
        self.port, self.ops_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.ops_port}/map/"
        self.folder = Path(tempfile.mkdtemp(prefix="memroute-map-"))
        self.router = None
        self.api = None
        self._is_up = threading.Event()
        self._ending = None
        self._failure = None
        self._thread = threading.Thread(target=self._run, name="map rig")

    def __enter__(self):
        self._thread.start()
        self._is_up.wait()
        if self._failure is not None:
            raise self._failure
        self.start_router()
        return self

    def __exit__(self, *_):
        self.stop_router()
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    # The router.

    def start_router(self, *more):
        flags = [
            "--host", "127.0.0.1", "--port", str(self.port), "--ops-port", str(self.ops_port),
            "--router-name", NAME, "--access-log", "off", "--max-queue-seconds", "20", *more,
        ]  # fmt: skip
        with (self.folder / "router.log").open("a") as log:
            self.router = subprocess.Popen(
                [sys.executable, "-m", "memroute_router", *flags],
                env=os.environ | {"KUBECONFIG": str(self.folder / "kubeconfig")},
                stderr=log,
            )
        self.wait_for(lambda: self._answers("/ready"))

    def stop_router(self):
        self.router.terminate()
        self.router.wait()

    def _answers(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}{path}", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def document(self, name):
        with urllib.request.urlopen(self.url + name, timeout=30) as answer:
            return json.load(answer)

    def wait_for(self, condition, seconds=240):
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError((self.folder / "router.log").read_text()[-2000:])
            time.sleep(0.1)

    # The cluster, the engines, and who asks.

    def _run(self):
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self._failure = error
            self._is_up.set()
            raise

    async def _live(self):
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        nodes = [self._node(index) for index in range(self.num_nodes)]
        num_devices = 8 * self.num_nodes
        mdeps = [
            mdep(
                name, model=model, mode=mode,
                replicas=max(1, round(share * num_devices * self.model_scale)),
                concurrency=4 if name == BUSY else 16,
            )
            for name, (model, mode, share) in MODELS.items()
        ]  # fmt: skip
        mdeps.append(mdep("giant", model="Qwen/Qwen2.5-72B-Instruct", replicas=1))
        async with operator_rig(nodes=nodes, mdeps=mdeps, request_seconds=120.0) as rig:
            rig.be_patient()
            self.pods = rig.cluster.objects["pods"]
            rig.read_exporter = self._reading
            await rig.list_and_step(12)
            self.promised = {
                (node["node"], device["index"]): device["promised"] or 0
                for node in fleet_map(rig.reconciler._sight)["nodes"]
                for device in node["devices"]
            }
            await self._start_engines(rig)
            await rig.steps(4, seconds=60.0)
            await rig.reconciler.tell_map()
            self._write_kubeconfig(rig)
            self._is_up.set()
            asking = asyncio.create_task(self._ask_forever())
            await self._ending.wait()
            asking.cancel()
            self.server.close()

    def _node(self, index):
        shared = index % 5 in (1, 3)
        made = node(f"gpu-{index:02}", gpus=8)
        made["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared" if shared else "exclusive"
        if not shared:
            made["status"]["allocatable"] = {"nvidia.com/gpu": "8"}
        if index == self.num_nodes - 2:
            made["spec"]["unschedulable"] = True
        return made

    def _reading(self, name, gpus, now_seconds):
        number = int(name.rpartition("-")[2])
        if number == self.num_nodes - 1:
            return None
        found = reading(name, gpus, now_seconds)
        devices = tuple(
            replace(one, free_bytes=one.free_bytes - used, used_bytes=one.used_bytes + used)
            for one in found.devices
            for used in (int(0.96 * self.promised.get((name, one.index), 0)),)
        )
        found = replace(found, devices=devices)
        if number % 5 != 4:  # the others' exporter does not tell pods
            given = [
                key
                for key, pod in sorted(self.pods.items())
                if pod["spec"].get("nodeName") == name
                and pod["metadata"]["labels"]["memroute.dev/model-deployment"] in ("chat", "code")
            ]
            devices = (
                replace(one, assigned_pods=tuple(given[one.index : one.index + 1]))
                for one in found.devices
            )
            found = replace(found, devices=tuple(devices))
        if number % 5 == 3:  # somebody's notebook
            devices = list(found.devices)
            devices[2] = replace(
                devices[2],
                free_bytes=max(0, devices[2].free_bytes - 9_000 * MIB),
                used_bytes=devices[2].used_bytes + 9_000 * MIB,
            )
            found = replace(found, devices=tuple(devices))
        return found

    async def _start_engines(self, rig):
        """An address and a capacity for each pod, then a server on all of them."""
        self.engine_port = port = free_port()
        addresses = []
        for number, pod in enumerate(rig.cluster.pods()):
            address = f"127.{64 + number // 250}.7.{number % 250 + 1}"
            capacity = int(pod["metadata"]["annotations"][ANNOTATION_KV_CAPACITY_TOKENS])
            self.engines.capacity[address] = capacity
            self.engines.models[address] = pod["metadata"]["labels"][
                "memroute.dev/model-deployment"
            ]
            addresses.append(address)

            def give(obj, address=address):
                obj["status"]["podIP"] = address
                for container in obj["spec"]["containers"]:
                    for one in container.get("ports", ()):
                        if one.get("name") == "http":
                            one["containerPort"] = port

            key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            rig.cluster.change("pods", key, give)
        self.server = await asyncio.start_server(self.engines.serve, addresses, port)

    def _write_kubeconfig(self, rig):
        host = rig.reconciler.board.client._api.configuration.host
        authority = {"certificate-authority": authority_file()}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": host} | authority}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "nobody"}}],
        }  # fmt: skip
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(config))

    async def _ask_forever(self):
        asked = set()
        while True:
            await asyncio.sleep(self.rng.expovariate(self.traffic))
            model = self.rng.choices((*MODELS, "nobody"), (10, 5, 5, 4, 0.5))[0]
            task = asyncio.create_task(self._ask(MODELS.get(model, (model,))[0]))
            asked.add(task)
            task.add_done_callback(asked.discard)

    async def _ask(self, model):
        words = "word " * self.rng.randrange(100, 2500)
        body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": words}],
                "max_tokens": self.rng.randrange(50, 600),
            }
        ).encode()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            await reader.read()
            writer.close()
