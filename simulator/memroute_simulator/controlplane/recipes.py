"""What the control plane's binaries are built from: a Go module, its packages and flags."""

from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
KUBERNETES_VERSION = "v1.37.2"

_VERSION_FLAGS = " ".join(
    f"-X {package}/version.git{field}={value}"
    for package, field, value in (
        ("k8s.io/component-base", "Version", KUBERNETES_VERSION),
        ("k8s.io/component-base", "Major", "1"),
        ("k8s.io/component-base", "Minor", "37"),
        ("k8s.io/client-go/pkg", "Version", KUBERNETES_VERSION),
    )
)
# Without these the API server reports v0.0.0-master, and feature emulation goes astray.

# No inlining across packages and no tables for debuggers: a third of the compiler's time. Go's own
# packages are inlined as ever: that is cheap, and they are what runs most (maps, strings, JSON).
# A switch and not a patch: what runs is Kubernetes' own code.
QUICK = ("all=-l -dwarf=false", "std=-dwarf=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class BinarySet:
    """Binaries that are built together, from one Go module file."""

    module: str
    """The folder below ``modules`` that holds go.mod and go.sum."""
    packages: dict[str, str]
    """Binary name → Go package. Names of one package are one program under several names."""
    tests: tuple[str, ...] = ()
    """Of those names, the ones whose package is a library with tests: the program runs them."""
    ldflags: str
    gcflags: tuple[str, ...] = ()
    """The compiler's flags, each for the packages that it names; of several the last counts."""
    notice: str
    files: tuple[tuple[str, str, str], ...] = ()
    """Files of Go modules that belong beside the binaries: the name here, the module, the path
    there (of several by ``*``: one after the other)."""
    is_opt_in: bool = False
    """Built only when it is asked for by name: no test of ``make test`` needs it."""


BINARY_SETS = (
    BinarySet(
        module="kubernetes",
        # One program (modules/kubernetes/main.go): linked once, not three times.
        packages=dict.fromkeys(
            ("kube-apiserver", "kube-controller-manager", "kube-scheduler"), "."
        ),
        ldflags=f"-s -w {_VERSION_FLAGS}",
        gcflags=QUICK,
        notice="building the Kubernetes control plane, once, about three minutes on two cores",
    ),
    BinarySet(
        module="etcd",
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
        ldflags="-s -w",
        gcflags=QUICK,
        notice="building etcd, once, about twenty seconds",
    ),
    # Not QUICK: the demo does not build it, and the tests run it hundreds of times.
    BinarySet(
        module="helm",
        packages={"helm": "helm.sh/helm/v4/cmd/helm"},
        ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        notice="building Helm, once, about two minutes on two cores",
    ),
    BinarySet(
        module="istio",
        packages={"pilot-discovery": "istio.io/istio/pilot/cmd/pilot-discovery"},
        ldflags="-s -w",
        gcflags=QUICK,
        notice="building Istio's pilot, once, about four minutes on two cores",
        files=(
            (
                "gateway-api.yaml",
                "sigs.k8s.io/gateway-api",
                "config/crd/standard/gateway.networking.k8s.io_*.yaml",
            ),
            (
                "inference-pools.yaml",
                "sigs.k8s.io/gateway-api-inference-extension",
                "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",
            ),
            ("istio.yaml", "istio.io/istio", "manifests/charts/base/files/crd-all.gen.yaml"),
        ),
        is_opt_in=True,
    ),
    # The newest version that is one module with the whole suite, and whose tests can all pass
    # (docs/adr/0062-upstreams-own-suite.md).
    BinarySet(
        module="gateway-suite",
        packages={
            "gateway-suite": "sigs.k8s.io/gateway-api-inference-extension/conformance",
            "echo-basic": "sigs.k8s.io/gateway-api/conformance/echo-basic",
        },
        tests=("gateway-suite",),
        ldflags="-s -w",
        gcflags=QUICK,
        notice="building the Gateway API's conformance suite for inference, once, about "
        "two minutes on two cores",
        files=(
            (
                "base.yaml",
                "sigs.k8s.io/gateway-api-inference-extension",
                "conformance/resources/base.yaml",
            ),
        ),
        is_opt_in=True,
    ),
)
