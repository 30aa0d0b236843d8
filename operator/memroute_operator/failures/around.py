"""What is told beside a pod: Events on it, and refusals to create it."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern, words

EVENTS: Final = (
    Signature(
        name="RuntimeClassMissing", where=Where.EVENT, reasons=words("FailedCreatePodSandBox"),
        pattern=pattern(r"no runtime for \"(?P<runtime>[^\"]+)\" is configured"),
        seen_as='`FailedCreatePodSandBox`: `no runtime for "nvidia" is configured`',
        sentence="the node has no container runtime named {runtime}",
        next_step="install the NVIDIA container toolkit there, or start the operator without "
                  "--shared-runtime-class",
    ),
    Signature(
        name="VolumeHeldElsewhere", where=Where.EVENT,
        reasons=words("FailedMount", "FailedAttachVolume"), pattern=pattern(r"Multi-Attach error"),
        seen_as="`FailedAttachVolume`: `Multi-Attach error`",
        sentence="the volume of the replica is still attached to another node",
        next_step="wait until the pod there has ended, or use a claim that is ReadWriteMany",
    ),
    Signature(
        name="VolumeMountFailing", where=Where.EVENT,
        reasons=words("FailedMount", "FailedAttachVolume"),
        seen_as="`FailedMount`: `hostPath type check failed` and others",
        sentence="a volume of the replica cannot be mounted",
        next_step="correct what the message names; kubelet tries again meanwhile",
    ),
    Signature(
        name="DeviceNotPrepared", where=Where.EVENT,
        reasons=words("FailedPrepareDynamicResources"),
        seen_as="`FailedPrepareDynamicResources`",
        sentence="the DRA driver could not prepare the device",
        next_step="look at the driver's pod on that node",
    ),
    Signature(
        name="StartTooLong", where=Where.EVENT, reasons=words("Unhealthy", "Killing"),
        pattern=pattern(r"failed startup probe"),
        seen_as="`Container engine failed startup probe, will be restarted`",
        sentence="the engine was not ready within the time that it has to start",
        next_step="keep the weights on a volume near the node so that they load faster",
    ),
)  # fmt: skip

REFUSED: Final = (
    Signature(
        name="HostPathForbidden", where=Where.REFUSED,
        pattern=pattern(r"violates PodSecurity \"(?P<level>[^\"]+)\":.*\"memroute-weights\""),
        seen_as='403 `violates PodSecurity "baseline:latest": hostPath volumes (volume '
                '"memroute-weights")`',
        sentence="the namespace's Pod Security level {level} allows no folder of a node, and the "
                 "model's weights are kept in one",
        next_step="keep them in a claim or in the pod (spec.model.cache.persistentVolumeClaim, or "
                  "emptyDir), or label the namespace with the level privileged",
    ),
    Signature(
        name="PodSecurityForbids", where=Where.REFUSED,
        pattern=pattern(r"violates PodSecurity \"(?P<level>[^\"]+)\": (?P<what>.+)"),
        seen_as='403 `violates PodSecurity "restricted:latest"`',
        sentence="the namespace's Pod Security level {level} forbids the pod: {what}",
        next_step="set what it names in the securityContext of spec.template, or label the "
                  "namespace with a wider level",
    ),
    Signature(
        name="QuotaExceeded", where=Where.REFUSED,
        pattern=pattern(r"exceeded quota: (?P<quota>[^,]+), requested: (?P<asked>.+?), used: "
                    r"(?P<used>.+?), limited: (?P<limit>.+)"),
        seen_as="403 `exceeded quota: NAME, requested: …`",
        sentence="the quota {quota} of the namespace is used up: {asked} asked, {used} used of "
                 "{limit}",
        next_step="raise the quota, lower spec.replicas, or delete what uses it",
    ),
    Signature(
        name="QuotaNeedsRequests", where=Where.REFUSED,
        pattern=pattern(r"failed quota: (?P<quota>[^:]+): must specify (?P<what>.+)"),
        seen_as="403 `failed quota: NAME: must specify limits.memory`",
        sentence="the quota {quota} of the namespace wants every pod to say {what}",
        next_step="set them as resources in spec.template, or let a LimitRange of the namespace "
                  "set "
                  "them for all",
    ),
    Signature(
        name="LimitRangeForbids", where=Where.REFUSED,
        pattern=pattern(r"(?P<what>(?:maximum|minimum) \S+ usage per (?:Container|Pod) is [^,]+)"),
        seen_as="403 `maximum memory usage per Container is 8Gi`",
        sentence="a LimitRange of the namespace forbids the pod: {what}",
        next_step="set resources in spec.template within it, or change the LimitRange",
    ),
    Signature(
        name="WebhookDenied", where=Where.REFUSED,
        pattern=pattern(r"admission webhook \"(?P<webhook>[^\"]+)\" denied the request: "
                        r"(?P<what>.+)"),
        seen_as='`admission webhook "x" denied the request`',
        sentence="the policy {webhook} refuses the pod: {what}",
        next_step="change in spec.template what it names, or have the namespace exempted",
    ),
    Signature(
        name="WebhookUnreachable", where=Where.REFUSED,
        pattern=pattern(r"failed calling webhook \"(?P<webhook>[^\"]+)\""),
        seen_as='`failed calling webhook "x"`',
        sentence="the webhook {webhook} has to allow every pod and does not answer",
        next_step="bring it back, or have its failurePolicy changed to Ignore; memroute tries "
                  "again meanwhile",
    ),
    Signature(
        name="NamespaceEnding", where=Where.REFUSED,
        pattern=pattern(r"because it is being terminated"),
        seen_as="403 `unable to create new content in namespace x because it is being terminated`",
        sentence="the namespace is being deleted",
        next_step="nothing to do: no pod can be made in it any more",
    ),
    Signature(
        name="PodInvalid", where=Where.REFUSED,
        pattern=pattern(r"Pod \"[^\"]+\" is invalid: (?P<what>.+)"),
        seen_as='422 `Pod "x" is invalid: …`',
        sentence="the API server does not take the pod: {what}",
        next_step="correct the field that it names, in spec.template or spec.engine",
    ),
)  # fmt: skip
