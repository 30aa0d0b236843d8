"""Which failures a person must mend: trying again, or waiting, does not."""

# By the names of the tables. Not here: what comes and goes with others (memory, disks, networks,
# registries and hubs that do not answer), and what another node may not have.
LASTING = frozenset(
    {
        # The image, and what its container is given.
        "CommandNotFound", "ConfigMapMissing", "ContainerConfigInvalid", "ImageForbidden",
        "ImageNameInvalid", "ImageNotFound", "ImageRunsAsRoot", "ImageSignatureRefused",
        "ImageWrongPlatform", "SecretKeyMissing", "SecretMissing",
        # The pod, as the API server or the kubelet judges it.
        "LimitRangeForbids", "PodInvalid", "PodSecurityForbids", "QuotaNeedsRequests",
        "RuntimeClassMissing", "VolumeClaimMissing", "WebhookDenied",
        # Flags, and the model that they are for.
        "ArgumentsRefused", "CacheTypeRefused", "ContextBeyondModel", "FlagUnknown",
        "FlagValueRefused", "ModuleMissing", "ParallelSizeRefused", "QuantizationMismatch",
        "ArchitectureUnsupported", "RemoteCodeRefused",
        # The model's source.
        "HubTokenInvalid", "ModelAccessDenied", "ModelFileMissing", "ModelGated", "ModelNotFound",
        "RevisionNotFound", "WeightsMissing",
    }
)  # fmt: skip


def is_lasting(name: str | None) -> bool:
    """Whether a failure of that name lasts until a person changes something."""
    return name in LASTING
