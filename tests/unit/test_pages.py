"""A page whose commands do not run costs its reader an hour, and us the reader."""

import re

import pytest
import yaml

from fake_hub import FakeHub, Repository, tiny_files
from followed_pages import Reader
from memroute_cli.simulate.scenario import scenario
from memroute_router.access.keyfile import read_keys
from memroute_router.discovery.static import read_config
from monitoring.__main__ import ALERTS
from page_blocks import (
    ELSEWHERE,
    PAGES_ELSEWHERE,
    PROGRAMS,
    SHELL,
    SHOWN,
    Block,
    Yaml,
    blocks,
    documents,
    kind_of,
    pages,
    scripts,
)


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_is_run_somewhere_or_says_why_not(block):
    """Whoever adds a command decides: a program of the lists in page_blocks.py, with its reason."""
    if block.page in PAGES_ELSEWHERE:
        return
    if block.language in SHELL:
        unknown = [one for one in block.programs if one not in PROGRAMS.keys() | ELSEWHERE.keys()]
        assert unknown == [], "add it to PROGRAMS, or to ELSEWHERE with the reason"
    elif block.language == "yaml":
        assert all(kind_of(one) for one in block.documents), "nobody reads such YAML"
    else:
        assert block.language in SHOWN


def test_a_new_program_and_a_new_kind_of_file_are_nobodys():
    """What the test above rests on: nothing is let through unread."""
    text = (
        "# frobnicate in a comment\n"
        "for node in a b; do\n  FOO=1 kubectl get node $node | jq . && frobnicate --now \\\n"
        "  --really\ndone\n"
        'key="x-$(openssl rand -hex 2)"\n'
        "curl -d 'a; b | c' localhost\n"
    )
    block = Block("page.md", 1, "bash", text)
    assert block.programs == ["kubectl", "jq", "frobnicate", "openssl", "curl"]
    assert block.asks_a_cluster
    shown = Block("page.md", 1, "console", "$ memroute plan x \\\n    -a y\nno program\n")
    assert shown.programs == ["memroute"]
    assert not shown.asks_a_cluster
    assert Block("page.md", 1, "bash", "memroute plan x --cluster # now\n").asks_a_cluster
    assert kind_of({"frobs": 1}) is None


def test_every_metric_and_alert_that_a_page_names_exists(repository):
    """A query that is copied from a page and shows nothing says that all is well."""
    told = (repository / "docs" / "reference" / "metrics.md").read_text()
    metrics = set(re.findall(r"\bmemroute_[a-z_]+", told))
    metrics |= {f"{name}_{part}" for name in metrics for part in ("bucket", "count", "sum")}
    packages = {path.name for path in repository.glob("*/memroute_*")}
    alerts = {alert.name for alert in ALERTS}
    for page in pages():
        text = (repository / page).read_text()
        named = set(re.findall(r"\bmemroute_[a-z_]+", text)) - packages
        assert named - metrics == set(), page
        assert set(re.findall(r"\bMemroute[A-Z]\w+", text)) - alerts == set(), page


@pytest.fixture(scope="module")
def org_hub():
    names = ("org/model", "org/gated-model", "Qwen/Qwen3-8B")
    with FakeHub(
        {name: Repository(tiny_files(), branches=("main", "v1.1")) for name in names}
    ) as hub:
        yield hub


HERE = [name for name in pages() if scripts(name, on_cluster=False)]


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE)
def test_the_commands_of_a_page_that_need_no_cluster_run_as_written(page, tmp_path, org_hub):
    """In the order in which they stand, in one shell, with ``set -e``."""
    reader = Reader(
        tmp_path,
        environment={"HF_ENDPOINT": org_hub.url, "MEMROUTE_CACHE": str(tmp_path / "cache")},
        words={"https://hub.example": org_hub.url},
    )
    assert reader.follow(scripts(page, on_cluster=False), page=page) == ""


# Of a router's file: fields that name other files, which are not on this machine.
NAMES_A_FILE = {"engineCA", "engineCertificate", "engineKey", "engineServerName", "tokenizer"}
MODELS = [{"name": "m", "replicas": ["http://10.0.0.1:8000"]}]


def read_router_file(document):
    whole = {"models": MODELS} | document
    plain = {name: value for name, value in whole.items() if name not in NAMES_A_FILE}
    plain["models"] = [
        {name: value for name, value in one.items() if name not in NAMES_A_FILE}
        for one in whole["models"]
    ]
    read_config(yaml.safe_dump(plain))


READERS = {
    Yaml.ROUTER_FILE: read_router_file,
    Yaml.KEY_FILE: lambda document: read_keys(yaml.safe_dump(document)),
    Yaml.SCENARIO: scenario,
}


SHOWN_FILES = documents(*READERS)


@pytest.mark.parametrize(
    "document", [one for _, one in SHOWN_FILES], ids=[str(block) for block, _ in SHOWN_FILES]
)
def test_a_file_that_a_page_shows_is_read_by_the_program_that_it_is_for(document):
    """A reader copies it, and changes a name."""
    READERS[kind_of(document)](document)
