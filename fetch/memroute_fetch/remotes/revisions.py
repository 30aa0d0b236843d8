"""Which commit a branch or a tag of a hub is now."""

from datetime import UTC, datetime
from urllib.parse import quote

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from memroute_fetch.failures import ExitCode, FetchError, from_hub
from memroute_fetch.remotes.http import READ_SECONDS
from memroute_fetch.sources import HubSource, Source, SourceError, parse_source
from memroute_hub import failures
from memroute_hub.errors import HubError
from memroute_hub.failures import Asked
from memroute_hub.names import checked_name, is_commit
from memroute_hub.settings import SettingsError, checked_endpoint, personal_token

_HUB = "hf://"
TOKEN_HINT = "HF_TOKEN, a Secret of adapters.source.hub or model.source.hub"  # noqa: S105 - words, no token


def pinned_source(text: str, client: httpx2.Client) -> Source:
    """The source, a revision of a hub resolved to its commit. Raises ``FetchError``."""
    repository, at, revision = text.removeprefix(_HUB).partition("@")
    try:
        if not text.startswith(_HUB) or is_commit(revision):
            return parse_source(text)
        name = checked_name(repository, revision if at else None)
        secret = personal_token().read()
        asked = Asked(
            name=name,
            endpoint=checked_endpoint(None),
            has_token=secret is not None,
            token_hint=TOKEN_HINT,
            timeout_seconds=READ_SECONDS,
        )
    except (SourceError, SettingsError) as error:
        raise FetchError(ExitCode.USAGE, str(error)) from error
    except HubError as error:
        raise from_hub(error) from error
    headers = build_hf_headers(token=secret or False, library_name="memroute")
    path = f"api/models/{repository}/revision/{quote(name.wanted_revision, safe='')}"
    try:
        response = client.get(f"{asked.endpoint}/{path}", headers=headers)
        hf_raise_for_status(response)
        document = response.json()
    except HfHubHTTPError as error:
        raise from_hub(failures.refused(error, asked, datetime.now(UTC))) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise from_hub(failures.unanswered(error, asked)) from error
    except ValueError as error:
        raise from_hub(failures.no_hub(asked, "its answer is no JSON")) from error
    commit = document.get("sha") if isinstance(document, dict) else None
    if not isinstance(commit, str) or not is_commit(commit):
        raise from_hub(failures.no_hub(asked, "it names no commit"))
    return HubSource(repository=repository, commit=commit)
