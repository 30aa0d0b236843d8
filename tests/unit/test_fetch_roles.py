"""A pod's own identity to a bucket: IRSA by STS, EKS Pod Identity by its agent, over sockets."""

import threading

import httpx2
import pytest

import fake_s3
from fake_hub import tiny_files
from fake_s3 import ACCESS_KEY, FakeS3, Stored
from fake_sts import AGENT, ROLE, FakeSTS, refusal
from fetching import Fetching, loopback_client, without_waits
from memroute_fetch.failures import ExitCode, FetchError, TransientError
from memroute_fetch.remotes.aws_identity import (
    RENEW_SECONDS,
    RETRY_SECONDS,
    Given,
    Renewed,
    checked_uri,
    identity_of,
)
from memroute_fetch.remotes.roles import RoleSettings, role_settings
from memroute_fetch.remotes.sigv4 import Credentials

FILES = tiny_files()
SOURCE = "s3://models/llama/8b@v1"
REGION = {"AWS_REGION": "eu-test-1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_waits(monkeypatch)


@pytest.fixture
def sts():
    with FakeSTS() as running:
        yield running


@pytest.fixture
def store(sts):
    """Takes the sessions that were given, and nothing else."""
    stored = {f"llama/8b/{path}": Stored(data) for path, data in FILES.items()}
    with FakeS3({"models": stored}) as running:
        # All of them: a session goes on when another one is given.
        running.takes = lambda token: token in {session for _, session in sts.sessions}
        yield running


@pytest.fixture
def token_file(sts, tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{sts.token}\n")
    return path


@pytest.fixture
def irsa(sts, token_file):
    """What EKS's webhook puts into a container."""
    return REGION | {
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token_file),
        "AWS_ENDPOINT_URL_STS": sts.url,
    }


@pytest.fixture
def pod_identity(sts, token_file):
    """What EKS's agent puts there."""
    return REGION | {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{sts.url}{AGENT}",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token_file),
    }


@pytest.fixture
def fetching(store, tmp_path):
    return Fetching(tmp_path / "cache", store.url)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["irsa", "pod_identity"])
def test_a_model_is_fetched_with_the_role_of_the_service_account(kind, request, fetching, sts):
    """No key in a Secret, none in an environment: one session for all of a model's files."""
    fetching.environment = request.getfixturevalue(kind)
    assert fetching.run(SOURCE) == ExitCode.COMPLETE, fetching.said
    assert fetching.files(SOURCE) == FILES
    assert len(sts.sessions) == 1
    if kind == "irsa":
        (form,) = sts.asked
        assert form["RoleSessionName"] == "memroute-fetch"


def test_keys_that_were_given_come_first(store, fetching, sts, irsa):
    """As Amazon's own programs have it: a Secret that a model names is meant."""
    store.takes = lambda token: token is None
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": fake_s3.SECRET_KEY}
    fetching.environment = irsa | keys
    assert fetching.run(SOURCE) == ExitCode.COMPLETE, fetching.said
    assert sts.asked == []


def test_a_session_that_ends_meanwhile_is_followed_by_another(store, fetching, sts, irsa):
    """A model takes an hour, a session as long. The token is read anew: kubelet renews it."""
    ended = b"<Error><Code>ExpiredToken</Code><Message>x</Message></Error>"
    store.faults["models/llama/8b/config.json"] = [fake_s3.answer(400, ended)]
    fetching.environment = irsa
    assert fetching.run(SOURCE) == ExitCode.COMPLETE, fetching.said
    assert len(sts.sessions) == 2
    assert fetching.files(SOURCE) == FILES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"AWS_ROLE_ARN": "arn:aws:iam::1:role/other"},
            ["refuses the role arn:aws:iam::1:role/other (403 AccessDenied: Not authorized",
             "trust policy", "service account"],
        ),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token"}, ["/nowhere/token, which cannot be"]),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/dev/null"}, ["/dev/null, which holds no token"]),
    ],
)  # fmt: skip
def test_what_sts_refuses_is_told(fetching, irsa, change, words):
    fetching.environment = irsa | change
    assert fetching.run(SOURCE) == ExitCode.DENIED
    assert all(word in fetching.said for word in words), fetching.said


def test_a_token_that_has_ended_is_told(fetching, sts, irsa):
    sts.token = "another"  # noqa: S105 - opens nothing
    fetching.environment = irsa
    assert fetching.run(SOURCE) == ExitCode.DENIED
    assert "400 ExpiredTokenException: Token expired" in fetching.said


def test_an_agent_that_knows_no_association_is_told(fetching, sts, pod_identity):
    sts.token = "another"  # noqa: S105 - opens nothing
    fetching.environment = pod_identity
    assert fetching.run(SOURCE) == ExitCode.DENIED
    assert "refuses the pod's identity (403 AccessDenied: no association)" in fetching.said
    assert "association of the service account" in fetching.said


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [(503, b""), (400, refusal("IDPCommunicationError", "x")), (200, b"<html>"), (429, b"slow")],
)
def test_trouble_of_sts_passes(fetching, sts, irsa, fault):
    sts.faults = [fault]
    fetching.environment = irsa
    assert fetching.run(SOURCE) == ExitCode.COMPLETE, fetching.said


def test_an_sts_that_nobody_reaches_is_told(fetching, irsa):
    fetching.environment = irsa | {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9"}
    assert fetching.run(SOURCE) == ExitCode.NO_NETWORK
    assert "cannot be reached for credentials" in fetching.said
    assert "AWS_ENDPOINT_URL_STS" in fetching.said


def test_a_role_without_its_token_is_a_mistake(fetching):
    """Half of it looks like anonymous access, and ends in a refusal that explains nothing."""
    fetching.environment = REGION | {"AWS_ROLE_ARN": ROLE}
    assert fetching.run(SOURCE) == ExitCode.USAGE
    assert "AWS_WEB_IDENTITY_TOKEN_FILE is not set" in fetching.said


@pytest.mark.parametrize(
    ("uri", "is_taken"),
    [
        ("http://169.254.170.23/v1/credentials", True), ("http://[fd00:ec2::23]/v1/x", True),
        ("http://169.254.170.2/v2/x", True), ("https://anywhere.example/x", True),
        ("http://anywhere.example/x", False), ("http://169.254.169.254/x", False),
        ("ftp://127.0.0.1/x", False), ("http://[", False), ("", False),
    ],
)  # fmt: skip
def test_a_token_is_sent_to_nobody_else_in_the_clear(uri, is_taken):
    if is_taken:
        assert checked_uri(uri) == uri
        return
    with pytest.raises(FetchError, match="without TLS"):
        checked_uri(uri)


def test_what_the_environment_says():
    roles = role_settings({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"})
    assert roles.uri == "http://169.254.170.2/v2/x"
    assert role_settings({}) == RoleSettings()
    with loopback_client() as client:
        nobody = identity_of(None, RoleSettings(), client, "eu-test-1")
    assert isinstance(nobody, Given)
    for word in ("AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "FULL_URI", "serviceAccountName"):
        assert word in nobody.told, "what was looked for"


# When others are asked for


def some(number):
    return Credentials(access_key=f"k{number}", secret_key="s", region="r")  # noqa: S106 - none


class Issuer:
    """Gives sessions of an hour."""

    def __init__(self):
        self.now = 1_000_000.0
        self.number = 0
        self.is_down = False
        self.identity = Renewed(self.ask, "a role", lambda: self.now)

    def ask(self):
        if self.is_down:
            raise TransientError(FetchError(ExitCode.NO_NETWORK, "down"))
        self.number += 1
        return some(self.number), self.now + 3600.0

    def key(self):
        return self.identity.credentials().access_key


def test_credentials_are_renewed_before_they_end():
    issuer = Issuer()
    assert issuer.key() == "k1"
    issuer.now += 3600 - RENEW_SECONDS - 1
    assert issuer.key() == "k1"
    issuer.now += 2
    assert issuer.key() == "k2"


def test_those_of_before_serve_while_others_cannot_be_had():
    """A minute of trouble of STS breaks no download; it is not asked for each request either."""
    issuer = Issuer()
    issuer.key()
    issuer.is_down = True
    issuer.now += 3600 - RENEW_SECONDS + 1
    assert issuer.key() == "k1"
    issuer.is_down = False
    assert issuer.key() == "k1"
    issuer.now += RETRY_SECONDS
    assert issuer.key() == "k2"
    issuer.is_down = True
    issuer.now += 3601
    with pytest.raises(TransientError):
        issuer.key()


def test_sessions_shorter_than_the_margin_are_not_asked_for_each_time():
    clock = [0.0]
    asked = []

    def ask():
        asked.append(clock[0])
        return some(len(asked)), clock[0] + 60.0

    identity = Renewed(ask, "a role", lambda: clock[0])
    for second in range(60):
        clock[0] = float(second)
        identity.credentials()
    assert asked == [0.0, 30.0]


def test_threads_that_need_them_at_once_ask_once():
    """Four files are fetched at a time."""
    begun, go_on = threading.Event(), threading.Event()
    asked = []

    def ask():
        asked.append(1)
        begun.set()
        go_on.wait(30)
        return some(1), 1e12

    identity = Renewed(ask, "a role", lambda: 0.0)
    threads = [threading.Thread(target=identity.credentials) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(asked) == 1


def test_the_client_of_the_agent_asks_no_proxy(monkeypatch, sts, token_file):
    """The agent is on the node, and the token is for it alone."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    roles = RoleSettings(uri=f"{sts.url}{AGENT}", uri_token_file=token_file)
    with httpx2.Client(trust_env=False) as client:
        found = identity_of(None, roles, client, "eu-test-1").credentials()
    assert found.session_token == "session-1"  # noqa: S105 - opens nothing
