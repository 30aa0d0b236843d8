"""The pages for an engineer on call say what the code says."""

import re

from picker_rules import RULES

from memroute.traffic.admission import (
    GATES,
    AdmissionSettings,
    QueueRefusal,
    RejectReason,
    no_ready_replica,
    not_now,
)
from memroute.traffic.dispatch.waiting_room import EndOfWait
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing import Choice
from memroute_router.access.words import REASONS
from memroute_router.http.clients import LimitKind
from memroute_router.http.connection import BODIES
from memroute_router.lifecycle.attempt import FailureCause
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import (
    BODY,
    CAUSES,
    COMPRESSED,
    DOCUMENT_TOO_LARGE,
    DOCUMENTS,
    ENGINE_ANSWER,
    ERROR_IN_STREAM,
    FIELD,
    LISTENER_CAUSES,
    MEDIA_HOST,
)
from memroute_router.log.journal import Record

# Outcomes that are refusals, beside those that admission words.
REFUSED = (
    Outcome.ROUTER_EXHAUSTED,
    Outcome.ENGINE_PUSH_BACK,
    Outcome.ENGINE_ERROR,
    Outcome.REPLICAS_FAILED,
    Outcome.INTERNAL_ERROR,
)


def rows(text):
    """The cells of each row of the tables, by the first word in backticks of the row."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.match(r"\| `([^`]+)`", line)
        if name:
            found.setdefault(name[1], cells)
    return found


def test_the_routing_page_has_the_words_of_every_gate(repository):
    """An engineer on call reads a reason in a metric and a clause in a refusal: both are there."""
    text = (repository / "docs" / "explanation" / "routing.md").read_text()
    table = rows(text)
    for gate in GATES:
        _, meaning, clause, remedy = table[gate.reason.value]
        assert meaning == gate.meaning
        assert clause == gate.sentence(2, AdmissionSettings())
        assert remedy
    places = [text.index(f"\n| `{gate.reason.value}` |") for gate in GATES]
    assert places == sorted(places), "in the order in which they are asked"


def test_the_runbook_knows_every_sentence_of_a_refusal(repository):
    """Nobody should meet a sentence at 3 a.m. that no page explains."""
    text = (repository / "docs" / "how-to" / "when-it-refuses.md").read_text()
    table = rows(text)
    for because in (*QueueRefusal, *EndOfWait):
        _, meaning, metric, remedy = table[because.value]
        assert meaning
        assert metric
        assert remedy
    for gate in GATES:
        clause = gate.sentence(2, AdmissionSettings())
        assert f"| `{gate.reason.value}`: *{clause}* |" in text
    for reason in (*RejectReason, *REFUSED):
        assert re.search(rf"^\| \d.*`{reason.value}` \|", text, re.MULTILINE), reason
    profile = RequestProfile(
        num_prompt_tokens=1, min_prompt_tokens=1, max_output_tokens=None, assumed_output_tokens=1
    )
    nobody = not_now(
        profile, [], closed={}, settings=AdmissionSettings(), expected_wait_seconds=None
    )
    assert no_ready_replica().message in text
    assert f"*{nobody.message.rpartition(' replica(s) ')[2]}*" in text


def test_the_runbook_has_a_row_for_every_outcome_and_every_cause(repository):
    """The log says one word; the engineer on call looks it up."""
    text = (repository / "docs" / "how-to" / "when-it-refuses.md").read_text()
    table = text.split("## By cause")[1].split("\n## ")[0]
    told = set(
        re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\|.*?\|.*?\|", table, re.MULTILINE)))
    )
    final = {FailureCause.BROKEN, FailureCause.EXHAUSTED}
    causes = {
        *CAUSES.values(), *LISTENER_CAUSES.values(), BODIES, BODY, FIELD, COMPRESSED, ENGINE_ANSWER,
        DOCUMENT_TOO_LARGE, DOCUMENTS, ERROR_IN_STREAM, LimitKind.CLIENT_CONNECTIONS.value,
        LimitKind.CLIENT_REQUESTS.value, MEDIA_HOST, *REASONS,
        *(cause.value for cause in set(FailureCause) - final),
    }  # fmt: skip
    outcomes = {outcome.value for outcome in Outcome}
    assert causes <= told
    assert told <= causes | outcomes
    for outcome in Outcome:
        if outcome is not Outcome.SERVED:
            assert f"`{outcome.value}` |" in text.split("## By cause")[0], outcome
    for sentence, cause in CAUSES.items():
        assert re.search(rf"\| `{cause}` \| \*{re.escape(sentence)}\*", table), cause


def test_every_cause_that_the_router_writes_is_one_that_is_listed(repository):
    """A word in place where it is said would pass the test above by."""
    for source in (repository / "router" / "memroute_router").rglob("*.py"):
        if source.name != "journal.py":
            assert not re.findall(r"cause\s*=\s*f?\"[a-z]", source.read_text()), source


def test_the_log_page_has_the_fields_of_a_line_in_their_order(repository):
    """Whoever writes a parser for the log writes it from this page."""
    text = (repository / "docs" / "reference" / "log.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    choice = Choice(
        replica="a", policy="memroute", num_candidates=1, wait_seconds=0.0, own_seconds=0.0,
        hit_tokens=0, projected_ratio=None, closed={},
    )  # fmt: skip
    lines = [
        Record(
            ended_at=0.0, request_id=b"r", path=b"/", model="m", outcome=Outcome.SERVED,
            status=200, replica="a", refusal=refusal, choice=choice, attempts=1,
            expected_tokens=1, prompt_tokens=1, cached_tokens=1, output_tokens=1,
            queue_seconds=1.0, first_byte_seconds=1.0, seconds=1.0, cause="c", tenant="t",
            client=b"1",
        )
        for refusal in ("no", "")
    ]  # fmt: skip
    fields = [re.findall(r"(?:^| )(\w+)=", re.sub('"[^"]*"', "", each.line())) for each in lines]
    assert [*fields[0], fields[1][-1]] == told
    named = {"request_id" if name == "id" else name for name in told} - {"refusal"}
    assert named == set(lines[1].document()) - {"ended_at"}


def test_every_sentence_of_a_refusal_is_in_an_enum(repository):
    """What is written in place where it is said would pass the test above by."""
    for source in (repository / "core" / "memroute" / "traffic").rglob("*.py"):
        assert not re.findall(r"because\s*=\s*f?\"", source.read_text()), source


def test_the_files_of_the_architecture_page_exist(repository):
    """The page answers "where is it?": a file that has moved is an answer that is wrong."""
    text = (repository / "docs" / "explanation" / "architecture.md").read_text()
    short = {
        "traffic": "core/memroute/traffic",
        "router": "router/memroute_router",
        "picker": "picker/memroute_picker",
    }
    num_files = 0
    for line in text.splitlines():
        folder = repository
        for name in re.findall(r"`([\w/.]+(?:/|\.py|\.yaml))`", line) if line[:2] == "| " else ():
            first, _, rest = name.partition("/")
            if first in short and not name.startswith(short[first]):
                name = f"{short[first]}/{rest}"  # noqa: PLW2901
            path = repository / name if "/" in name else folder / name
            assert path.exists(), line
            folder = path.parent
            num_files += 1
    assert num_files > 50


def test_the_page_of_the_pickers_rules_has_each_of_them(repository):
    """The suite and its page are one list: a rule that nobody can look up is no rule."""
    text = (repository / "docs" / "reference" / "picker-rules.md").read_text()
    told = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (.*?) \| (.*?) \|", text, re.MULTILINE)
    assert told == [
        (name, *map(str, (rule.level, rule.text, rule.source))) for name, rule in RULES.items()
    ]


def test_the_constants_that_the_pages_name_exist(repository):
    """A reader looks a name up to see its source and what it does: it has to be there."""
    source = "".join(
        path.read_text()
        for folder in ("core/memroute/traffic", "router/memroute_router")
        for path in (repository / folder).rglob("*.py")
    )
    pages = ("explanation/routing.md", "how-to/when-it-refuses.md")
    for page in pages:
        for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", (repository / "docs" / page).read_text()):
            assert re.search(rf"^{name}: Final", source, re.MULTILINE), f"{page}: {name}"


def test_the_metrics_that_the_runbook_names_exist(repository):
    """A metric that nobody exports shows nothing."""
    known = (repository / "docs" / "reference" / "metrics.md").read_text()
    for page in ("explanation/routing.md", "how-to/when-it-refuses.md", "reference/errors.md"):
        text = (repository / "docs" / page).read_text()
        for name in re.findall(r"`?(memroute_router_[a-z_]+)", text):
            assert f"`{name}`" in known, f"{page}: {name}"


def test_every_reason_of_a_refusal_by_key_is_in_both_pages(repository):
    """A client's developer looks in one of them, the engineer on call in the other."""
    source = repository / "router" / "memroute_router" / "access"
    said = re.findall(r'"([a-z]+-[a-z-]+)",\n', (source / "quotas.py").read_text())
    assert set(said) <= set(REASONS)
    for page in ("how-to/when-it-refuses.md", "reference/errors.md"):
        text = (repository / "docs" / page).read_text()
        assert [reason for reason in REASONS if f"`{reason}`" not in text] == []
