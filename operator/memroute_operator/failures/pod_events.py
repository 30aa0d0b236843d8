"""What Events say of pods: kubelet's, kube-scheduler's and the device drivers' own words."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern, words

_MOUNT = words("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX = words("FailedCreatePodSandBox")

HINDRANCES: Final = (
    Signature(
        name="RuntimeClassMissing", where=Where.EVENT, reasons=_SANDBOX,
        pattern=pattern(r"no runtime for \"(?P<runtime>[^\"]+)\" is configured"),
        seen_as='`FailedCreatePodSandBox`: `no runtime for "nvidia" is configured`',
        sentence="the node has no container runtime named {runtime}",
        next_step="install the NVIDIA container toolkit there, or start the operator without "
                  "--shared-runtime-class",
    ),
    Signature(
        name="NodeOutOfAddresses", where=Where.EVENT, reasons=_SANDBOX,
        pattern=pattern(r"no IP addresses available|failed to assign an IP address|"
                        r"no available IP|insufficient free addresses"),
        seen_as="`FailedCreatePodSandBox`: `failed to assign an IP address to container`",
        sentence="the node's network has no address left for another pod",
        next_step="give the node's subnet or network plugin more addresses, or move other pods "
                  "off the node; kubelet tries again meanwhile",
    ),
    Signature(
        name="PodNetworkFailing", where=Where.EVENT,
        reasons=words("FailedCreatePodSandBox", "NetworkNotReady"),
        pattern=pattern(r"failed to setup network|network plugin|NetworkPluginNotReady|cni"),
        seen_as="`FailedCreatePodSandBox`: `failed to setup network for sandbox`, "
                "`NetworkNotReady`",
        sentence="the node cannot connect the pod to the cluster's network",
        next_step="look at the network plugin's pod on that node; kubelet tries again meanwhile",
    ),
    Signature(
        name="PodSandboxFailing", where=Where.EVENT, reasons=_SANDBOX,
        seen_as="`FailedCreatePodSandBox`",
        sentence="the node's container runtime cannot make the pod's sandbox",
        next_step="look at the container runtime's log on that node; kubelet tries again meanwhile",
    ),
    Signature(
        name="VolumeHeldElsewhere", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"Multi-Attach error"),
        seen_as="`FailedAttachVolume`: `Multi-Attach error`",
        sentence="the volume of the replica is still attached to another node",
        next_step="wait until the pod there has ended, or use a claim that is ReadWriteMany",
    ),
    Signature(
        name="SecretMissing", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"secrets? \"(?P<secret>[^\"]+)\" not found"),
        seen_as='`FailedMount`: `secret "x" not found`',
        sentence="the Secret {secret}, which the replica mounts, does not exist in this namespace",
        next_step="create it there (kubectl create secret generic {secret} …); the replica starts "
                  "by itself then",
    ),
    Signature(
        name="ConfigMapMissing", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"configmaps? \"(?P<config_map>[^\"]+)\" not found"),
        seen_as='`FailedMount`: `configmap "x" not found`',
        sentence="the ConfigMap {config_map}, which the replica mounts, does not exist in this "
                 "namespace",
        next_step="create it there; the replica starts by itself then",
    ),
    Signature(
        name="SecretKeyMissing", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"references non-existent (?:secret|config) key: (?P<key>\S+)"),
        seen_as="`FailedMount`: `references non-existent secret key: K`",
        sentence="a Secret or ConfigMap that the replica mounts has no key {key}",
        next_step="add the key to it, or name the key that it has in spec.template; the replica "
                  "starts by itself then",
    ),
    Signature(
        name="HostPathMissing", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"hostPath type check failed: (?P<path>\S+)"),
        seen_as="`FailedMount`: `hostPath type check failed: /models is not a directory`",
        sentence="the node has not what the volume asks for at {path}",
        next_step="create it on the node, or keep the model to nodes that have it with "
                  "placement.nodeSelector",
    ),
    Signature(
        name="VolumeDriverMissing", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"driver name (?P<driver>\S+) not found in the list of registered CSI"),
        seen_as="`FailedMount`: `driver name x not found in the list of registered CSI drivers`",
        sentence="the storage driver {driver} does not run on the node",
        next_step="look at the driver's DaemonSet: it may not tolerate the node's taint",
    ),
    Signature(
        name="FileServerUnreachable", where=Where.EVENT, reasons=_MOUNT,
        pattern=pattern(r"mount\.nfs|Connection timed out|No route to host|access denied by server|"
                        r"mount failed: exit status 32"),
        seen_as="`FailedMount`: `mount.nfs: Connection timed out`",
        sentence="the node cannot mount the file share",
        next_step="check from the node that the server answers and lets it in (exports, firewall, "
                  "nfs-utils); kubelet tries again meanwhile",
    ),
    Signature(
        name="VolumeMountFailing", where=Where.EVENT, reasons=_MOUNT,
        seen_as="`FailedMount`, `FailedAttachVolume` with other words",
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
)  # fmt: skip

ENDS: Final = (
    Signature(
        name="StartTooLong", where=Where.EVENT, reasons=words("Unhealthy", "Killing"),
        pattern=pattern(r"failed startup probe"),
        seen_as="`Killing`: `Container engine failed startup probe, will be restarted`",
        sentence="the engine was not ready within the time that it has to start",
        next_step="keep the weights on a volume near the node so that they load faster",
    ),
    Signature(
        name="LivenessProbeFailed", where=Where.EVENT, reasons=words("Unhealthy", "Killing"),
        pattern=pattern(r"failed liveness probe"),
        seen_as="`Killing`: `Container engine failed liveness probe, will be restarted`",
        sentence="the engine stopped answering and kubelet ended it after its liveness probe",
        next_step="kubectl logs --previous shows whether it hung; if it was only slow, give "
                  "it more time by livenessProbe.failureThreshold of the container engine in "
                  "spec.template",
    ),
    Signature(
        name="PreStopFailed", where=Where.EVENT, reasons=words("FailedPreStopHook"),
        seen_as="`FailedPreStopHook`",
        sentence="what was to let the engine finish its requests failed, and it was ended",
        next_step="correct the preStop hook in spec.template, or take it out",
    ),
    Signature(
        name="PreemptedByScheduler", where=Where.EVENT, reasons=words("Preempted"),
        seen_as="`Preempted`: `Preempted by pod UID on node NODE`",
        sentence="kube-scheduler ended the replica for a pod of higher priority",
        next_step="give the model a priorityClassName in spec.template, or keep such pods off its "
                  "nodes",
    ),
)  # fmt: skip

PULLS: Final = (
    Signature(
        name="PullSecretMissing", where=Where.EVENT,
        reasons=words("FailedToRetrieveImagePullSecret"),
        pattern=pattern(r"image pull secrets \((?P<secrets>[^)]+)\)"),
        seen_as="`FailedToRetrieveImagePullSecret`, beside an image pull that is refused",
        sentence="the registry refuses to give the image, and the pull Secret ({secrets}) that "
                 "the pod names does not exist in this namespace",
        next_step="create it there (kubectl create secret docker-registry …), or name one that "
                  "exists in spec.template; kubelet tries again meanwhile",
    ),
)  # fmt: skip

PROBES: Final = (
    Signature(
        name="NotAnswering", where=Where.EVENT, reasons=words("Unhealthy"),
        pattern=pattern(r"(?:Readiness|Liveness) probe failed: (?P<why>.+)"),
        seen_as="`Unhealthy`: `Readiness probe failed: …`, of an engine that has served",
        sentence="the engine runs and does not answer its probe ({why})",
        next_step="kubectl logs shows what it does; an engine that hangs is ended with kubectl "
                  "delete pod",
    ),
)  # fmt: skip

EVENTS: Final = (*HINDRANCES, *PULLS, *ENDS, *PROBES)
