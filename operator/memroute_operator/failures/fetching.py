"""How the init container that fetches weights ends: its exit codes, and the kernel's word.

What it says itself (one sentence, with numbers) is quoted behind these.
"""

from typing import Final

from memroute_fetch.failures import ExitCode
from memroute_operator.failures.signature import Signature, Where, words

FETCH_IMAGE: Final = Signature(
    name="FetchImageMissing", where=Where.FETCH,
    reasons=words("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"),
    seen_as="`ErrImagePull`, `ImagePullBackOff` of that container",
    sentence="the image that fetches weights cannot be pulled",
    next_step="set the operator's --fetch-image to one that nodes can pull; a registry that wants "
              "a Secret needs imagePullSecrets in spec.template, or on the namespace's default "
              "ServiceAccount",
)  # fmt: skip
FETCH: Final = (
    FETCH_IMAGE,
    Signature(
        name="DownloaderMemoryExhausted", where=Where.FETCH, reasons=words("OOMKilled"),
        seen_as="`OOMKilled`",
        sentence="what fetches the weights used more host memory than its limit",
        next_step="raise resources.limits.memory of the init container memroute-fetch in "
                  "spec.template; what was fetched is kept, and it goes on from there",
    ),
    Signature(
        name="WeightsChecksumWrong", where=Where.FETCH,
        exit_codes=frozenset({ExitCode.CHECKSUM}),
        seen_as="exit code 65",
        sentence="a file of the weights is not what its source says it is",
        next_step="nothing to do once: it is fetched again; if it repeats, look for what changes "
                  "files on the way (a proxy, a mirror) or for a failing disk on the node",
    ),
    Signature(
        name="WeightsNotFound", where=Where.FETCH, exit_codes=frozenset({ExitCode.NOT_FOUND}),
        seen_as="exit code 66",
        sentence="the source has no such weights",
        next_step="correct spec.model.source (repository and revision, or bucket and prefix) or "
                  "spec.model.file; a private repository needs source.hub.tokenSecretRef",
    ),
    Signature(
        name="SourceUnreachable", where=Where.FETCH,
        exit_codes=frozenset({ExitCode.NO_NETWORK}),
        seen_as="exit code 69",
        sentence="the source of the weights cannot be reached from the node",
        next_step="let the namespace's egress reach it (NetworkPolicy, DNS; HTTPS_PROXY in "
                  "spec.engine.env is the fetcher's too); it tries again meanwhile, and goes on "
                  "where it was",
    ),
    Signature(
        name="CacheFull", where=Where.FETCH, exit_codes=frozenset({ExitCode.NO_SPACE}),
        seen_as="exit code 73",
        sentence="there is no space for the weights where they are to be kept",
        next_step="free space there, or raise spec.model.cache.sizeGiB (the operator's "
                  "--model-cache-gib); on a node's disk the replica is placed on another node "
                  "meanwhile, if one has room",
    ),
    Signature(
        name="CacheUnusable", where=Where.FETCH,
        exit_codes=frozenset({ExitCode.CACHE_UNUSABLE}),
        seen_as="exit code 74",
        sentence="the place where weights are kept cannot be read, written or locked",
        next_step="a node's folder has to be root's (delete one that is not: it is made again); a "
                  "volume claim has to be writable by the group 65532 or by the fsGroup of "
                  "spec.template",
    ),
    Signature(
        name="WeightsDenied", where=Where.FETCH, exit_codes=frozenset({ExitCode.DENIED}),
        seen_as="exit code 77",
        sentence="the source does not let the replica have the weights",
        next_step="gated or private on a hub: name a Secret with the token of an account that has "
                  "been let in as source.hub.tokenSecretRef; S3: keys that may read the bucket as "
                  "source.s3.secretName",
    ),
    Signature(
        name="FetcherOutdated", where=Where.FETCH,
        exit_codes=frozenset({2, ExitCode.USAGE, 126, 127, 128}),
        seen_as="exit code 2, 64, 126, 127 or 128",
        sentence="the image that fetches weights is none, or is of another release",
        next_step="set the operator's --fetch-image to that of its own release (the chart does)",
    ),
    Signature(
        name="FetchEnded", where=Where.FETCH, exit_codes=frozenset({130, 137, 143}),
        seen_as="exit code 130, 137 or 143",
        sentence="the fetching of the weights was ended from outside",
        next_step="nothing to do: it starts again, and goes on where it was",
    ),
    Signature(
        name="FetchFailed", where=Where.FETCH,
        seen_as="any other exit code",
        sentence="the fetching of the weights ended with exit code {code}",
        next_step="read its log: kubectl logs POD -c memroute-fetch",
    ),
)  # fmt: skip
