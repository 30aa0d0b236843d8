"""What the environment says of a role, where a pod has one instead of keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Where ECS's agent is, for an address that begins with a slash.
ECS = "http://169.254.170.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """What the environment says of a role; None is what it does not say."""

    role: str | None = None
    token_file: Path | None = None
    session_name: str = "memroute-fetch"
    sts_endpoint: str | None = None
    """None: Amazon's own, by region."""
    uri: str | None = None
    """Of the agent that has credentials."""
    uri_token_file: Path | None = None
    uri_token: str | None = field(default=None, repr=False)


def role_settings(environment: Mapping[str, str]) -> RoleSettings:
    """What a webhook or an agent has put there."""

    def path(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    return RoleSettings(
        role=environment.get("AWS_ROLE_ARN") or None,
        token_file=path("AWS_WEB_IDENTITY_TOKEN_FILE"),
        session_name=environment.get("AWS_ROLE_SESSION_NAME") or "memroute-fetch",
        sts_endpoint=environment.get("AWS_ENDPOINT_URL_STS") or None,
        uri=f"{ECS}{relative}"
        if relative
        else environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or None,
        uri_token_file=path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        uri_token=environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") or None,
    )
