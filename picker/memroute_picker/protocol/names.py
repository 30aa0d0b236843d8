"""Names of the endpoint picker protocol: header fields, namespaces of metadata, services."""

from typing import Final

PROCESS_PATH: Final = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH_CHECK_PATH: Final = b"/grpc.health.v1.Health/Check"
HEALTH_WATCH_PATH: Final = b"/grpc.health.v1.Health/Watch"
PROCESSOR_SERVICE: Final = b"envoy.service.ext_proc.v3.ExternalProcessor"

DESTINATION: Final = b"x-gateway-destination-endpoint"
"""Where the gateway sends a request: ``ip:port``, or several in order."""
SUBSET: Final = b"x-gateway-destination-endpoint-subset"
"""In metadata: where it may be sent."""
SERVED: Final = b"x-gateway-destination-endpoint-served"
"""In metadata of the answer: who has served it."""
LB: Final = b"envoy.lb"
SUBSET_NAMESPACE: Final = b"envoy.lb.subset_hint"
ATTRIBUTES: Final = b"envoy.filters.http.ext_proc"
UPSTREAM_ADDRESS: Final = b"upstream.address"
CODE_DETAILS: Final = b"response.code_details"
VIA_UPSTREAM: Final = b"via_upstream"
"""How details begin where an engine has answered, not the gateway itself."""

TEST_SELECTION: Final = b"test-epp-endpoint-selection"
TEST_SERVED: Final = b"x-conformance-test-served-endpoint"
"""Of the conformance tests of gateways; for tests alone."""

FAIRNESS: Final[tuple[bytes, ...]] = (
    b"x-llm-d-inference-fairness-id", b"x-gateway-inference-fairness-id",
)  # fmt: skip
OBJECTIVE: Final[tuple[bytes, ...]] = (
    b"x-llm-d-inference-objective", b"x-gateway-inference-objective",
)  # fmt: skip
MODEL_REWRITE: Final[tuple[bytes, ...]] = (
    b"x-llm-d-model-name-rewrite", b"x-gateway-model-name-rewrite",
)  # fmt: skip
TTFT: Final[tuple[bytes, ...]] = (b"x-llm-d-slo-ttft-ms", b"x-slo-ttft-ms")
TPOT: Final[tuple[bytes, ...]] = (b"x-llm-d-slo-tpot-ms", b"x-slo-tpot-ms")
"""What llm-d calls claims that memroute reads, and what it called them before."""
