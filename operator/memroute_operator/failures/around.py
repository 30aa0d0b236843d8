"""What the API server says where it does not create a pod."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern

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
