"""The edit that each suggestion of a failure asks for, and why some cannot be tried by an edit."""

from suggestion_edits import (
    COMMIT,
    CONFIG,
    FETCHED,
    NODE_CACHE,
    Follow,
    container,
    engine,
    env,
    has,
    image,
    limited,
    memory,
    merged,
    of_engine,
    pool_bytes,
    selected,
    size_limits,
    smaller_flag,
    template,
    variable,
)


def _all_of(names, several):
    return dict.fromkeys(names, several)


SELECT = Follow({"placement": {"nodeSelector": {"zone": "a"}}}, selected, says="nodeSelector")
MIRROR = Follow(engine(image="mirror.example/vllm:1"), image, says="image")
LIMIT = Follow(
    container(resources={"limits": {"memory": "96Gi"}}), limited("limits", "memory", "96Gi"),
    says="spec.template",
)  # fmt: skip
REQUESTS = Follow(
    container(resources={"requests": {"memory": "48Gi", "cpu": "2"}}),
    lambda before, after: (
        limited("requests", "memory", "48Gi")(before, after)
        and limited("requests", "cpu", "2")(before, after)
    ),
)
PULL_SECRET = Follow(
    template(imagePullSecrets=[{"name": "regcred"}]), has(imagePullSecrets=[{"name": "regcred"}])
)
PRIORITY = Follow(
    template(priorityClassName="high"), has(priorityClassName="high"), says="priorityClassName"
)
TOLERATION = {"key": "sku", "operator": "Exists", "effect": "NoSchedule"}
TOLERATE = Follow(
    template(tolerations=[TOLERATION]),
    lambda before, after: (
        TOLERATION in after.spec["tolerations"]
        and TOLERATION not in (before.spec.get("tolerations") or [])
    ),
    says="tolerate",
)
HUB_TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
TOKEN = Follow(
    engine(env=[HUB_TOKEN]),
    lambda before, after: HUB_TOKEN in after.engine["env"] and "HF_TOKEN" not in before.env(),
)
CLAIM = {"model": {"cache": {"persistentVolumeClaim": {"claimName": "weights"}}}}
ON_A_CLAIM = Follow(
    CLAIM,
    lambda _, after: any("persistentVolumeClaim" in one for one in after.spec["volumes"]),
    first=FETCHED,
)
MORE_DEVICES = Follow(
    {"parallelism": {"tensorParallelSize": 2}},
    lambda before, after: after.of.footprint.weights_bytes < before.of.footprint.weights_bytes,
    says="tensorParallelSize",
)
QUANTIZED = Follow(
    memory(quantization="FP8"),
    lambda before, after: (
        after.of.footprint.weights_bytes < before.of.footprint.weights_bytes
        and after.flag("--quantization") == "fp8"
    ),
    says="quantization",
)


def on(kind, follow, mode="Shared"):
    return Follow(
        follow.change, follow.is_gone, merged(of_engine(kind, mode), follow.first),
        follow.settings, follow.says,
    )  # fmt: skip


def holds_a_request(before, after):
    """An engine whose tokens take half as much again as was reckoned; see the last test here."""
    return pool_bytes(after) // 3 * 2 >= pool_bytes(before) // before.of.shape.concurrency


# By the name of the failure: the edits that its suggestion asks for.
FOLLOWED: dict[str, list[Follow]] = {
    "ContainerDiskLimit": [
        Follow(
            container(resources={"limits": {"ephemeral-storage": "500Gi"}}),
            limited("limits", "ephemeral-storage", "500Gi"), says="ephemeral-storage",
        ),
        ON_A_CLAIM,
    ],
    "EmptyDirFull": [
        ON_A_CLAIM,
        Follow(
            {"model": {"cache": {"sizeGiB": 900}}},
            lambda before, after: size_limits(after) > size_limits(before),
            first=merged(FETCHED, {"model": {"cache": {"emptyDir": {}, "sizeGiB": 100}}}),
            says="sizeGiB",
        ),
    ],
    "NodeDiskFull": [ON_A_CLAIM],
    "NodeMemoryFull": [REQUESTS],
    "NodeAffinityLost": [SELECT],
    "CriticalPodPreempted": [REQUESTS],
    "PreemptedByScheduler": [PRIORITY],
    "NodeTaintedNoExecute": [TOLERATE],
    "VolumeClaimMissing": [
        Follow(
            {"model": {"source": {"persistentVolumeClaim": {"claimName": "other"}}}},
            lambda _, after: "other" in str(after.spec["volumes"]),
            first={"model": {
                "source": {"persistentVolumeClaim": {"claimName": "gone"}}, "config": CONFIG,
            }},
        ),
    ],
    "VolumeElsewhere": [SELECT],
    "NodeLacksRoom": [
        Follow(
            container(resources={"requests": {"memory": "1Gi"}}),
            limited("requests", "memory", "1Gi"), says="resources.requests",
        ),
    ],
    "NodeTainted": [TOLERATE],
    "NodeLabelsDoNotMatch": [SELECT],
    "FetchImageMissing": [PULL_SECRET],
    "DownloaderMemoryExhausted": [
        Follow(
            template(initContainers=[
                {"name": "memroute-fetch", "resources": {"limits": {"memory": "8Gi"}}},
            ]),
            limited("limits", "memory", "8Gi", of="fetch"), first=FETCHED, settings=NODE_CACHE,
        ),
    ],
    "WeightsNotFound": [
        Follow(
            {"model": {"source": {"hub": {"revision": COMMIT[::-1]}}}},
            lambda _, after: COMMIT[::-1] in str(after.fetch), first=FETCHED,
            settings=NODE_CACHE, says="spec.model.source",
        ),
    ],
    "SourceUnreachable": [
        Follow(
            env("HTTPS_PROXY", "http://proxy:3128"),
            lambda _, after: after.env(after.fetch)["HTTPS_PROXY"] == "http://proxy:3128",
            first=FETCHED, settings=NODE_CACHE, says="HTTPS_PROXY",
        ),
    ],
    "CacheFull": [
        Follow(
            {"model": {"cache": {"hostPath": {"path": "/var/cache/memroute"}, "sizeGiB": 900}}},
            lambda before, after: before.fetch["args"] != after.fetch["args"],
            first=FETCHED, settings=NODE_CACHE, says="sizeGiB",
        ),
    ],
    "CacheUnusable": [
        Follow(template(securityContext={"fsGroup": 2000}), lambda _, after:
               after.spec["securityContext"]["fsGroup"] == 2000, says="fsGroup"),
    ],
    "WeightsDenied": [
        Follow(
            {"model": {"source": {"hub": {"tokenSecretRef": {"name": "hf", "key": "token"}}}}},
            lambda before, after: "secretKeyRef" in str(after.fetch) != str(before.fetch),
            first=FETCHED, settings=NODE_CACHE, says="source.hub.tokenSecretRef",
        ),
    ],
    **_all_of(
        ("ImageNameInvalid", "RegistryUnavailable", "ImageSignatureRefused", "ImageNotFound",
         "RegistryUnreachable", "DriverTooOldForImage", "CommandNotFound", "DriverTooOld",
         "ModuleMissing", "EngineCrashed", "ArchitectureUnsupported", "DeviceFaulty"), [MIRROR],
    ),
    "ImageNeverPulled": [
        Follow(
            container(imagePullPolicy=None),
            lambda _, after: "imagePullPolicy" not in after.engine,
            first=container(imagePullPolicy="Never"),
        ),
    ],
    "ImageRateLimited": [MIRROR, PULL_SECRET],
    "ImageForbidden": [PULL_SECRET],
    "ImageWrongPlatform": [MIRROR, SELECT],
    "ImageLacksKernels": [MIRROR, SELECT],
    "ProcessorTooOld": [MIRROR, SELECT],
    "PullSecretMissing": [PULL_SECRET],
    "HostPathMissing": [SELECT],
    "SecretKeyMissing": [TOKEN, Follow(container(env=[HUB_TOKEN]), TOKEN.is_gone)],
    "ContainerConfigInvalid": [Follow(env("A"), variable("A"), says="spec.engine.env")],
    "ImageRunsAsRoot": [
        Follow(template(securityContext={"runAsUser": 1000}), lambda _, after:
               after.spec["securityContext"]["runAsUser"] == 1000, says="runAsUser"),
    ],
    "VisibleDevicesForbidden": [
        Follow(
            {"placement": {"mode": "Exclusive"}},
            lambda before, after: "NVIDIA_VISIBLE_DEVICES" in before.env()
            and "NVIDIA_VISIBLE_DEVICES" not in after.env(),
            first={"placement": {"mode": "Shared"}}, says="placement.mode Exclusive",
        ),
    ],
    "HostMemoryExhausted": [LIMIT],
    "KilledFromOutside": [LIMIT],
    "ContextTooLongForCache": [
        Follow(
            memory(maxContextTokens=5000), smaller_flag("--max-model-len"),
            first=of_engine("VLLM", "Exclusive"), says="on a whole device",
        ),
        Follow(
            memory(concurrency=6), holds_a_request,
            first=merged(of_engine("VLLM"), memory(concurrency=4)),
            says="on a shared one raise spec.memory.concurrency",
        ),
    ],
    "DeviceMemoryTaken": [
        Follow(
            # What has to be free at its start is what it needs, and no share of the whole device.
            {"placement": {"mode": "Shared"}},
            lambda before, after: float(after.flag("--gpu-memory-utilization"))
            < float(before.flag("--gpu-memory-utilization")) / 2,
            first=of_engine("VLLM", "Exclusive"), says="placement.mode Shared",
        ),
        Follow(
            {"placement": {"mode": "Shared"}},
            lambda before, after: before.flag("--max-total-tokens") is None
            and after.flag("--max-total-tokens") is not None,
            first=of_engine("SGLang", "Exclusive"),
        ),
    ],
    "NoRoomForCache": [
        on("VLLM", MORE_DEVICES), on("SGLang", MORE_DEVICES), on("VLLM", QUANTIZED),
        on("SGLang", QUANTIZED),
        Follow(memory(maxContextTokens=2048), smaller_flag("--ctx-size"), of_engine("LlamaCPP")),
        Follow(memory(concurrency=1), smaller_flag("--ctx-size"), of_engine("LlamaCPP")),
    ],
    "StaticMemoryTooSmall": [
        on("SGLang", MORE_DEVICES),
        Follow(
            {"placement": {"mode": "Exclusive"}},
            lambda before, after: before.flag("--max-total-tokens") is not None
            and after.flag("--max-total-tokens") is None,
            first=of_engine("SGLang"),
        ),
    ],
    "ContextBeyondModel": [
        Follow(memory(maxContextTokens=2048), smaller_flag("--max-model-len")),
        Follow(memory(maxContextTokens=2048), smaller_flag("--context-length"),
               of_engine("SGLang")),
    ],
    "QuantizationMismatch": [
        Follow(
            memory(quantization="Auto"),
            lambda before, after: before.flag("--quantization") == "fp8"
            and after.flag("--quantization") is None,
            first=merged(of_engine("VLLM"), memory(quantization="FP8")),
        ),
    ],
    "GraphCaptureFailed": [
        Follow(engine(execution="Eager"), lambda _, after:
               after.flag("--disable-cuda-graph") is True, of_engine("SGLang")),
        Follow(engine(maxSequences=16), smaller_flag("--max-running-requests"),
               of_engine("SGLang")),
    ],
    "CacheTypeRefused": [
        Follow(
            memory(kvCacheDtype="Auto"),
            lambda _, after: after.flag("--cache-type-v") is None, of_engine("LlamaCPP"),
        ),
    ],
    "ModelGated": [TOKEN],
    "HubTokenInvalid": [TOKEN],
    "ModelNotFound": [TOKEN],
    "HubRateLimited": [TOKEN, ON_A_CLAIM],
    "HubUnreachable": [
        Follow(env("HTTPS_PROXY"), variable("HTTPS_PROXY")),
        Follow(env("HF_ENDPOINT"), variable("HF_ENDPOINT")), ON_A_CLAIM,
    ],
    "RevisionNotFound": [
        Follow(
            {"model": {"source": {"hub": {"revision": COMMIT[::-1]}}}},
            lambda _, after: COMMIT[::-1] in str(after.engine["args"]), first=FETCHED,
        ),
    ],
    "RemoteCodeRefused": [
        Follow(engine(args=["--trust-remote-code"]), lambda _, after:
               after.flag("--trust-remote-code") is True, of_engine(kind))
        for kind in ("VLLM", "SGLang")
    ],
    "ModelFileMissing": [
        Follow(engine(args=["--tokenizer", "a/b"]), lambda _, after:
               after.flag("--tokenizer") == "a/b", says="--tokenizer "),
        Follow(engine(args=["--tokenizer-path", "a/b"]), lambda _, after:
               after.flag("--tokenizer-path") == "a/b", of_engine("SGLang"),
               says="SGLang: --tokenizer-path"),
    ],
    "NoDeviceVisible": [
        Follow(template(runtimeClassName="mine"), has(runtimeClassName="mine"),
               of_engine("VLLM", "Exclusive"), says="runtimeClassName"),
    ],
    "CommunicationFailed": [
        Follow(env("NCCL_DEBUG", "INFO"), variable("NCCL_DEBUG", "INFO")),
        Follow(env("NCCL_P2P_DISABLE"), variable("NCCL_P2P_DISABLE")),
    ],
    "DeviceMemoryExhausted": [
        Follow(memory(maxContextTokens=2048), lambda before, after:
               pool_bytes(after) < pool_bytes(before), of_engine("VLLM")),
        Follow(memory(concurrency=1), lambda before, after:
               pool_bytes(after) < pool_bytes(before), of_engine("VLLM")),
        Follow(
            engine(maxBatchedTokens=512, maxSequences=16),
            lambda before, after: smaller_flag("--max-num-batched-tokens")(before, after)
            and smaller_flag("--max-num-seqs")(before, after),
            of_engine("VLLM", "Exclusive"), says="spec.engine.maxBatchedTokens",
        ),
    ],
    "ParallelSizeRefused": [
        Follow({"parallelism": {"tensorParallelSize": 2}}, lambda _, after:
               after.flag("--tensor-parallel-size") == "2"),
    ],
    "PortTaken": [
        Follow(
            template(containers=[{"name": "side", "image": "i", "env": [
                {"name": "PORT", "value": "9000"}]}]),
            lambda _, after: "9000" in str(after.spec["containers"]),
            first=template(containers=[{"name": "side", "image": "i"}]), says="another port",
        ),
    ],
    "CacheDiskFull": [
        Follow(
            container(resources={"limits": {"ephemeral-storage": "500Gi"}}),
            limited("limits", "ephemeral-storage", "500Gi"),
        ),
    ],
    "CacheNotWritable": [
        Follow(template(securityContext={"fsGroup": 2000}), lambda _, after:
               after.spec["securityContext"]["fsGroup"] == 2000),
        Follow(env("HF_HUB_OFFLINE"), variable("HF_HUB_OFFLINE")),
    ],
    "FlagUnknown": [
        MIRROR,
        Follow(engine(args=[]), lambda _, after: after.flag("--next-year") is None,
               first=engine(args=["--next-year"])),
    ],
    "FlagValueRefused": [
        Follow(engine(args=["--seed", "1"]), lambda _, after: after.flag("--seed") == "1",
               first=engine(args=["--seed", "x"])),
    ],
    "LivenessProbeFailed": [
        Follow(
            container(livenessProbe={"failureThreshold": 60}),
            lambda before, after: before.engine["livenessProbe"]["failureThreshold"] < 60
            == after.engine["livenessProbe"]["failureThreshold"],
            says="livenessProbe.failureThreshold",
        ),
    ],
    "PreStopFailed": [
        Follow(
            template(containers=[{"name": "side", "image": "i"}]),
            lambda _, after: "preStop" not in str(after.spec["containers"][1]),
            first=template(containers=[{
                "name": "side", "image": "i",
                "lifecycle": {"preStop": {"exec": {"command": ["false"]}}},
            }]),
        ),
    ],
    "HostPathForbidden": [
        Follow(
            {"model": {"cache": {one: how}}},
            lambda before, after: "hostPath" in str(before.spec["volumes"])
            and "hostPath" not in str(after.spec["volumes"]),
            first=FETCHED, settings=NODE_CACHE, says=one,
        )
        for one, how in (("persistentVolumeClaim", {"claimName": "weights"}), ("emptyDir", {}))
    ],
    "PodSecurityForbids": [
        Follow(
            container(securityContext={
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            }),
            lambda _, after: after.engine["securityContext"]["allowPrivilegeEscalation"]
            is False,
        ),
    ],
    "QuotaExceeded": [
        Follow({"replicas": 1}, lambda before, after:
               after.of.replicas < before.of.replicas, first={"replicas": 2}),
    ],
    "QuotaNeedsRequests": [REQUESTS, LIMIT],
    "LimitRangeForbids": [REQUESTS, LIMIT],
    "WebhookDenied": [
        Follow(
            {"template": {"metadata": {"labels": {"team": "a"}}}},
            lambda _, after: after.pod["metadata"]["labels"]["team"] == "a",
        ),
    ],
    "PodInvalid": [LIMIT],
}  # fmt: skip
# By name: why no edit of the manifest can be tried here.
_NOTHING = "nothing is to be done, and the suggestion says so"
_NODE = "the node or what runs on it has to be looked at or repaired"
_OUTSIDE = "another object of the cluster, or of its administrators, has to change"
_LOOK = "it says where to read more; what helps depends on what stands there"
_DATA = "files of a cache, a repository or a hub have to change"
_OPERATOR = "the operator is started otherwise (its flags are compared below)"
NOT_FOLLOWED: dict[str, str] = {
    **dict.fromkeys(
        ("NodeShutDown", "DrainedByAdministrator", "ContainerLost", "FetchEnded", "NodeFull",
         "DeviceMemoryMoved", "DevicesTakenMeanwhile", "WeightsChecksumWrong", "EngineEnded",
         "NodeGone", "NamespaceEnding"), _NOTHING,
    ),
    **dict.fromkeys(
        ("Evicted", "DeviceRefused", "ImageUnreadable", "ImageDiskFull", "DeviceRuntimeBroken",
         "NodeUnschedulable", "PodNetworkFailing", "PodSandboxFailing", "NodeOutOfAddresses",
         "FileServerUnreachable", "DeviceNotPrepared", "VolumeDriverMissing"), _NODE,
    ),
    **dict.fromkeys(
        ("DeadlineExceeded", "SchedulingGated", "VolumeClaimUnbound", "SecretMissing",
         "ConfigMapMissing", "WebhookUnreachable", "VolumeHeldElsewhere"), _OUTSIDE,
    ),
    **dict.fromkeys(
        ("FetchFailed", "InitContainerFailed", "ImagePullFailing", "ContainerRefused",
         "EngineCoreFailed", "ArgumentsRefused", "EngineFailing", "VolumeMountFailing",
         "NotAnswering", "StartTooLong", "SharedMemoryTooSmall"), _LOOK,
    ),
    **dict.fromkeys(
        ("ModelAccessDenied", "WeightsDamaged", "WeightsMissing", "ModelFileUnreadable"), _DATA,
    ),
    **dict.fromkeys(("FetcherOutdated", "RuntimeClassMissing"), _OPERATOR),
}  # fmt: skip
