"""A model's files, brought into a cache exactly once: the program ``memroute-fetch``.

An init container runs it before an engine. The operator imports the names alone: what a source is
(``parse_source``) and which directory of a cache holds it (``model_directory``). Both are pure.

``program`` has the options, ``task`` the order of things, ``disk.cache`` what lies on the disk,
``remotes`` the two protocols, ``telling`` what others hear of it.
"""

from memroute_fetch.sources import (
    ADAPTERS_FOLDER,
    MARKER_NAME,
    HubSource,
    S3Source,
    Source,
    SourceError,
    adapter_directory,
    model_directory,
    parse_source,
)

__all__ = [
    "ADAPTERS_FOLDER",
    "MARKER_NAME",
    "HubSource",
    "S3Source",
    "Source",
    "SourceError",
    "adapter_directory",
    "model_directory",
    "parse_source",
]
