"""A source, ready to be asked, whichever protocol it speaks."""

import httpx2

from memroute_fetch.remotes.remote import RemoteModel
from memroute_fetch.settings import Settings
from memroute_fetch.sources import HubSource, Source


def remote_of(source: Source, settings: Settings, client: httpx2.Client) -> RemoteModel:
    """The source, ready to be asked. Its modules take a quarter of a second to load.

    ``--endpoint`` is that of the kind of the run's own source.
    """
    if isinstance(source, HubSource):
        from memroute_fetch.remotes.hub_source import open_hub  # noqa: PLC0415 - see above
        from memroute_hub.settings import personal_token  # noqa: PLC0415

        is_hub = isinstance(settings.source, HubSource)
        return open_hub(source, client, settings.endpoint if is_hub else None, personal_token())
    from memroute_fetch.remotes.s3_source import open_s3  # noqa: PLC0415 - as above

    is_s3 = not isinstance(settings.source, HubSource)
    return open_s3(source, client, settings.endpoint if is_s3 else None, settings.s3)
