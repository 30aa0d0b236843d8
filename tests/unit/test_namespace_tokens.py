"""A gated model, read with the token of its own namespace: when that is granted, and for whom."""

import asyncio
import base64
import re
import shlex

import pytest

from fake_hub import GOOD_TOKEN, POOR_TOKEN, FakeHub, Repository, loopback_sessions, tiny_files
from memroute_hub import HubError, HubReason, ModelName
from memroute_hub.client import open_hub
from memroute_hub.settings import HubSettings, Token
from memroute_kube import ApiError
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.namespace_tokens import (
    NamespaceTokens,
    OwnedName,
    TokenSecret,
    refused_sentence,
)
from operator_rig import mdep, node, operator_rig

SECRET = TokenSecret(namespace="team-a", name="hub-token", key="token")
GATED = OwnedName(repository="org/gated", secret=SECRET)
FORBIDDEN = (
    'secrets "hub-token" is forbidden: User "system:serviceaccount:ops:memroute" cannot get '
    'resource "secrets" in API group "" in the namespace "team-a"'
)


class Secrets:
    """An API server that has Secrets, or refuses them."""

    def __init__(self, *, data=None, error=None):
        self.data, self.error = data, error
        self.asked = []

    async def get(self, resource, namespace, name):
        resource.path(namespace, name)
        self.asked.append((namespace, name))
        if self.error is not None:
            raise self.error
        data = {key: base64.b64encode(text.encode()).decode() for key, text in self.data.items()}
        return {"data": data}


@pytest.fixture
def hub():
    repositories = {"org/gated": Repository(tiny_files(), is_gated=True)}
    with loopback_sessions(), FakeHub(repositories) as running:
        yield running


async def resolve(hub, secrets, name=GATED, own=None):
    settings = HubSettings(
        endpoint=hub.url, token=Token(value=own), token_hint="the operator's own"  # noqa: S106
    )  # fmt: skip
    async with open_hub(settings) as client:
        return await NamespaceTokens(secrets, client.resolve).resolve(name)


async def refusal(hub, secrets, **how):
    with pytest.raises(HubError) as raised:
        await resolve(hub, secrets, **how)
    return raised.value


@pytest.mark.slow
async def test_a_secret_that_may_be_read_opens_the_model(hub):
    found = await resolve(hub, Secrets(data={"token": f"{GOOD_TOKEN}\n"}))
    assert found.is_gated
    assert (found.repository, found.config["model_type"]) == ("org/gated", "llama")


async def test_a_model_without_a_secret_asks_for_none(hub):
    """No right is needed where nobody has named anything."""
    secrets = Secrets(error=ApiError(403, "Forbidden", FORBIDDEN))
    assert (await resolve(hub, secrets, ModelName(repository="org/gated"), GOOD_TOKEN)).is_gated
    assert secrets.asked == []


async def test_a_secret_that_may_not_be_read_names_the_command(hub):
    """Two commands that can be pasted, for that one Secret and that one account."""
    error = await refusal(hub, Secrets(error=ApiError(403, "Forbidden", FORBIDDEN)))
    assert error.reason is HubReason.TOKEN_REQUIRED
    assert "org/gated is gated" in error.message
    commands = re.search(r"(kubectl create role .*) && (kubectl create rolebinding .*)$",
                         error.message)  # fmt: skip
    assert shlex.split(commands[1])[3:] == [
        "memroute-reads-hub-token", "-n", "team-a", "--verb=get", "--resource=secrets",
        "--resource-name=hub-token",
    ]  # fmt: skip
    assert shlex.split(commands[2])[3:] == [
        "memroute-reads-hub-token", "-n", "team-a", "--role=memroute-reads-hub-token",
        "--serviceaccount=ops:memroute",
    ]  # fmt: skip


async def test_the_operators_own_token_serves_where_the_secret_does_not(hub):
    """As before: an installation that has one for all needs no grants."""
    secrets = Secrets(error=ApiError(403, "Forbidden", FORBIDDEN))
    assert (await resolve(hub, secrets, own=GOOD_TOKEN)).is_gated


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        (
            Secrets(error=ApiError(404, "NotFound", "x")),
            "There is no Secret hub-token of namespace",
        ),
        (Secrets(data={"other": "x"}), "Secret hub-token of namespace team-a has no token under"),
        (Secrets(data={"token": " "}), "has no token under the key token"),
    ],
)
async def test_what_is_wrong_with_the_secret_is_told(hub, secrets, words):
    error = await refusal(hub, secrets)
    assert words in error.message, error.message


@pytest.mark.parametrize("name", ["../../team-b/secrets/hub-token", "..", "a/b", "%2e%2e", ""])
async def test_a_secret_whose_name_leads_elsewhere_is_not_asked_for(hub, name):
    """With ../ in it, it would be another team's Secret, read with the operator's rights."""
    secrets = Secrets(data={"token": GOOD_TOKEN})
    secret = TokenSecret(namespace="team-a", name=name, key="token")
    error = await refusal(hub, secrets, name=OwnedName(repository="org/gated", secret=secret))
    assert "There is no Secret" in error.message
    assert secrets.asked == []


async def test_an_account_without_access_is_told_by_the_secret(hub):
    error = await refusal(hub, Secrets(data={"token": POOR_TOKEN}))
    assert error.reason is HubReason.ACCESS_NOT_GRANTED
    error = await refusal(hub, Secrets(data={"token": "hf_wrong"}))
    assert "key token of Secret hub-token of namespace team-a" in error.message
    assert "hf_wrong" not in error.message


async def test_an_api_server_that_does_not_answer_is_no_refusal(hub):
    error = await refusal(hub, Secrets(error=ApiError(503, "ServiceUnavailable", "x")))
    assert error.is_transient


def test_the_command_has_an_account_whatever_was_said():
    assert "--serviceaccount=memroute-system:memroute-operator" in refused_sentence(SECRET, "no")


def of_team(name, *, secret=None):
    obj = mdep(name, model="org/gated", maxContextTokens=1024)
    if secret is not None:
        obj["spec"]["model"]["source"] = {"hub": {"tokenSecretRef": {"name": secret}}}
    return obj


def test_what_one_secret_has_opened_is_nobody_elses():
    """A pin of a gated model that is told to whoever asks for the name would open it for all."""
    names = [read_deployment(of_team("m", secret=one)).hub_name for one in (None, "a", "b")]
    assert len(set(names)) == 3
    assert [str(one) for one in names] == ["org/gated"] * 3


@pytest.mark.slow
async def test_the_operator_pins_for_who_names_the_secret(hub):
    settings = HubSettings(endpoint=hub.url, token=Token(value=None))
    secret = {
        "metadata": {"namespace": "default", "name": "hub-token"},
        "data": {"token": base64.b64encode(GOOD_TOKEN.encode()).decode()},
    }
    async with (
        open_hub(settings) as client,
        operator_rig(
            nodes=[node("a", gpus=2)],
            mdeps=[of_team("with", secret="hub-token"), of_team("without")],  # noqa: S106 - a name
            argv=["--hub-endpoint", hub.url], resolve_model=client.resolve,
        ) as rig,
    ):  # fmt: skip
        rig.cluster.objects.setdefault("secrets", {})["default/hub-token"] = secret
        asking = asyncio.create_task(rig.reconciler.hub_models.run())
        try:
            await rig.until("it serves", lambda: rig.is_ready("default/with"))
            await rig.until(
                "the other to be refused",
                lambda: rig.condition("default/without", "Resolved")["reason"] == "TokenRequired",
            )
        finally:
            asking.cancel()
    status = rig.cluster.objects["modeldeployments"]["default/without"]["status"]
    assert not status.get("model")
