"""A real Envoy before the picker, in each of the body modes that gateways use."""

import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
DUPLEX_NONE = ("FULL_DUPLEX_STREAMED", "NONE")
BUFFERED = ("BUFFERED", "STREAMED")
START_SECONDS = 60.0
_API = "type.googleapis.com/envoy.extensions"


def watched(config: dict) -> dict:
    """The same bootstrap, where a picker that hangs is found out within some three seconds.

    By health checks for requests that come later, by pings for those that wait for it already.
    """
    cluster = config["static_resources"]["clusters"][1]
    cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
    cluster["health_checks"] = [{
        "timeout": "1s", "interval": "1s", "no_traffic_interval": "1s",
        "unhealthy_threshold": 2, "healthy_threshold": 1,
        "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
    }]  # fmt: skip
    (options,) = cluster["typed_extension_protocol_options"].values()
    options["explicit_http_config"]["http2_protocol_options"] = {
        "connection_keepalive": {"interval": "1s", "timeout": "2s"}
    }
    return config


def bootstrap(picker: str, port: int, modes: tuple[str, str]) -> dict:
    """The bootstrap of an Envoy at ``port`` that asks ``picker`` (``host:port``)."""
    request, response = modes
    is_duplex = request == DUPLEX[0]
    host, _, picker_port = picker.rpartition(":")
    manager = {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "conformance",
        "use_remote_address": True,
        "generate_request_id": True,
        "stream_idle_timeout": "0s",
        "route_config": {"name": "all", "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": "endpoints", "timeout": "0s"},
            }],
        }]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": {
                "@type": f"{_API}.filters.http.ext_proc.v3.ExternalProcessor",
                "failure_mode_allow": False,
                "status_on_error": {"code": "ServiceUnavailable"},
                "message_timeout": "30s",
                "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
                "processing_mode": {
                    "request_header_mode": "SEND",
                    "request_body_mode": request,
                    "request_trailer_mode": "SEND" if is_duplex else "SKIP",
                    "response_header_mode": "SEND",
                    "response_body_mode": response,
                    "response_trailer_mode": "SEND" if is_duplex else "SKIP",
                },
                "response_attributes": ["upstream.address", "response.code_details"],
                "metadata_options": {
                    "receiving_namespaces": {"untyped": ["envoy.lb"]},
                    "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
                },
            }},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": f"{_API}.filters.http.router.v3.Router"}},
        ],
    }  # fmt: skip
    many = {"thresholds": [{"max_connections": 40000, "max_pending_requests": 40000,
                            "max_requests": 40000}]}  # fmt: skip
    return {
        "static_resources": {
            "listeners": [{
                "name": "clients",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "per_connection_buffer_limit_bytes": 8 * 1024**2,
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager}]}],
            }],
            "clusters": [
                {"name": "endpoints", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
                 "connect_timeout": "2s", "circuit_breakers": many,
                 "original_dst_lb_config": {
                     "use_http_header": True,
                     "http_header_name": "x-gateway-destination-endpoint"}},
                {"name": "picker", "type": "STRICT_DNS", "connect_timeout": "5s",
                 "circuit_breakers": many,
                 "typed_extension_protocol_options": {
                     "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                         "@type": f"{_API}.upstreams.http.v3.HttpProtocolOptions",
                         "explicit_http_config": {"http2_protocol_options": {}}}},
                 "load_assignment": {"cluster_name": "picker", "endpoints": [{"lb_endpoints": [
                     {"endpoint": {"address": {"socket_address": {
                         "address": host, "port_value": int(picker_port)}}}}]}]}},
            ],
        }
    }  # fmt: skip


class Envoy:
    """One Envoy, while it is entered."""

    def __init__(
        self, picker: str, port: int, modes: tuple[str, str] = DUPLEX, *, config: dict | None = None
    ) -> None:
        """``config``: its bootstrap; None: one in these modes."""
        self.url = f"http://127.0.0.1:{port}"
        self._config = bootstrap(picker, port, modes) if config is None else config

    def __enter__(self):
        program = shutil.which("envoy")
        if program is None:
            message = "envoy is not on PATH: make picker-conformance installs it"
            raise RuntimeError(message)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "envoy.yaml"
        path.write_text(yaml.safe_dump(self._config))
        self._log = (Path(self._folder.name) / "log").open("wb")
        self._process = subprocess.Popen(
            [program, "-c", path, "--concurrency", "1", "--log-level", "warning",
             "--use-dynamic-base-id"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._wait()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def log(self) -> str:
        """What it has said."""
        return (Path(self._folder.name) / "log").read_text(errors="replace")

    def _wait(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url + "/", timeout=5).close()
            except urllib.error.HTTPError:
                return  # it answers, whatever
            except OSError:
                time.sleep(0.05)
            else:
                return
        log = self.log()
        self.__exit__()
        message = f"Envoy did not begin to serve:\n{log}"
        raise RuntimeError(message)
