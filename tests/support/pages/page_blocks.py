"""The commands and manifests of the documentation, and where each of them is run.

A block of a page is either run by a test, or its program is in ``ELSEWHERE`` with the reason why
not. A block that is neither fails ``tests/unit/test_pages.py``: whoever writes a page decides.
"""

import copy
import re
import subprocess
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[3]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "sh", "console"}
# Output, figures and formulas: nothing to run.
SHOWN = {"", "text", "json"}
# Decisions and the changelog tell of commands as they were.
HISTORY = ("docs/adr/", "CHANGELOG.md")


class Where(Enum):
    """Where a program's commands are run; the value says how."""

    HERE = "as written, on this machine"
    CLUSTER = "as written, on the shared control plane; what would change it with --dry-run=server"
    READ = "its arguments by its own parser: it would run for minutes, or for ever"


PROGRAMS = {
    "memroute": Where.HERE, "make": Where.READ, "python": Where.READ,
    "memroute-router": Where.READ, "memroute-fetch": Where.READ, "memroute-simulator": Where.READ,
    "openssl": Where.HERE, "printf": Where.HERE, "echo": Where.HERE, "sha256sum": Where.HERE,
    "cut": Where.HERE, "grep": Where.HERE, "sort": Where.HERE, "jq": Where.HERE,
    "export": Where.HERE, "cat": Where.HERE,
    "kubectl": Where.CLUSTER, "helm": Where.CLUSTER, "curl": Where.CLUSTER,
}  # fmt: skip
# Subcommands of memroute that ask a cluster or a router.
ASKS_A_CLUSTER = re.compile(r"memroute (doctor|top|explain|decisions)\b|memroute plan .*--cluster")
ELSEWHERE = {
    "docker": "builds or moves images: CI has no Docker",
    "kind": "makes a cluster of containers: CI has no Docker",
    "pip": "installs a package into whatever Python is there",
    "crane": "copies images between registries: CI has none",
}
# Pages whose commands need what no clone has.
PAGES_ELSEWHERE = {
    "docs/how-to/behind-a-gateway-picker.md": "gateway/test_operator.py follows it, "
    "picker_conformance/test_example.py runs its Envoy",
    "docs/how-to/verify-a-release.md": "needs a release's files: test_release.py makes and checks",
}
# Kinds whose CRD the shared control plane does not have.
KINDS_ELSEWHERE = {
    "PodMonitor": "needs the Prometheus operator's CRDs",
    "Gateway": "gateway/test_operator.py has Istio's",
    "HTTPRoute": "test_gateway_pool.py has the CRDs of gateways",
    "InferencePool": "likewise",
    "InferenceObjective": "likewise",
}
KEYWORDS = {"for", "do", "done", "then", "fi", "in", "while"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def script(self):
        """What a reader types: without prompts, and without what is printed."""
        if self.language != "console":
            return self.text
        typed, goes_on = [], False
        for line in self.text.splitlines():
            if line.startswith("$ ") or goes_on:
                typed.append(line.removeprefix("$ "))
                goes_on = line.rstrip().endswith("\\")
        return "\n".join(typed) + "\n"

    @property
    def programs(self):
        """The programs that its script starts."""
        plain = re.sub(r"(^|\s)#[^\n]*", r"\1", self.script)
        plain = re.sub(r"\\\n", " ", plain)
        plain = re.sub(r"'[^']*'", "''", plain)
        plain = re.sub(r'"((?:[^"$]|\$(?!\())*)"', '""', plain)
        found = []
        for command in re.split(r"[\n;|&(]+|<\(|\$\(", plain):
            words = command.replace(")", " ").replace('"', "").split()
            if words and words[0] == "for":
                continue
            while words and (words[0] in KEYWORDS or re.fullmatch(r"\w+=\S*", words[0])):
                words.pop(0)
            if words:
                found.append(words[0].rpartition("/")[2])
        return found

    @property
    def asks_a_cluster(self):
        """Whether any command of it needs one."""
        return bool(ASKS_A_CLUSTER.search(re.sub(r"\s*#[^\n]*", "", self.script))) or any(
            PROGRAMS.get(one) is Where.CLUSTER for one in self.programs
        )

    @property
    def documents(self):
        """The documents of a block of YAML."""
        return copy.deepcopy(_documents(self.text))


@cache
def _documents(text):
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one is not None]


@cache
def pages():
    """Every page of today, by its path in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return sorted(
        name for name in listed
        if not name.startswith((*HISTORY, "tests/")) and (REPOSITORY / name).exists()
    )  # fmt: skip


@cache
def blocks(page=None):
    """Every fenced block, of one page or of all."""
    found = []
    for name in [page] if page else pages():
        text = (REPOSITORY / name).read_text()
        for match in FENCE.finditer(text):
            indent = len(match[1])
            body = "".join(line[indent:] or "\n" for line in match[3].splitlines(keepends=True))
            found.append(Block(name, text.count("\n", 0, match.start()) + 1, match[2], body))
    return found


def scripts(page, *, on_cluster):
    """The blocks of a page that are run there, in their order."""
    if page in PAGES_ELSEWHERE:
        return []
    return [
        one for one in blocks(page)
        if one.language in SHELL and one.asks_a_cluster is on_cluster
    ]  # fmt: skip


# YAML: what a block of it is.

_VALUES = set(
    yaml.load((REPOSITORY / "helm" / "memroute" / "values.yaml").read_text(), yaml.CSafeLoader)
)
_ROUTER_FILE = {"models", "peers", "engineCA", "engineCertificate", "engineKey", "engineServerName"}
_KEY_FILE = {"tenants", "jwt"}
_SCENARIO = {
    "workload", "target", "objective", "policies", "routers", "scrape", "timeout", "fleets",
    "events", "perCard", "sharing",
}  # fmt: skip


class Yaml(Enum):
    """What a document is, and so who reads it."""

    OBJECT = "an object of Kubernetes: the API server"
    PART = "part of a ModelDeployment: the API server, with the rest around it"
    VALUES = "values of the chart: helm template"
    ROUTER_FILE = "a router's file: the router"
    KEY_FILE = "a file of keys: the router"
    SCENARIO = "a scenario: memroute simulate"
    KIND_CLUSTER = "kind's configuration: kind alone reads it"


def kind_of(document):
    """Who reads a document of YAML; None where nobody does."""
    if document.get("kind") == "Cluster" and "kind.x-k8s.io" in document.get("apiVersion", ""):
        return Yaml.KIND_CLUSTER
    if {"apiVersion", "kind"} <= document.keys():
        return Yaml.OBJECT
    if document.keys() <= {"spec", "metadata"}:
        return Yaml.PART
    for kind, keys in (
        (Yaml.ROUTER_FILE, _ROUTER_FILE), (Yaml.KEY_FILE, _KEY_FILE),
        (Yaml.SCENARIO, _SCENARIO), (Yaml.VALUES, _VALUES),
    ):  # fmt: skip
        if document.keys() <= keys:
            return kind
    return None


def documents(*kinds):
    """(block, document) of every document of these kinds."""
    return [
        (block, document)
        for block in blocks()
        if block.language == "yaml"
        for document in block.documents
        if kind_of(document) in kinds
    ]


def whole_deployment(part, number):
    """A ModelDeployment with this part in it."""
    spec = part.get("spec", {})
    model = {"name": "Qwen/Qwen3-8B"} | spec.get("model", {})
    return {
        "apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": f"part-{number}"} | part.get("metadata", {}),
        "spec": spec | {"model": model},
    }  # fmt: skip
