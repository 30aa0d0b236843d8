"""Every way to fail has a sentence and a next step; each is tried by something that ends so."""

import asyncio
import re
import signal
import sys

import pytest

from memroute.footprint import EngineType
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.engines.owned_flags import refusal
from memroute_operator.engines.registry import engine_of
from memroute_operator.failures import (
    ALL,
    Where,
    event_meaning,
    failure_of,
    last_end_of,
    last_words,
    refusal_of,
    scheduling_of,
)
from memroute_operator.failures.page import PAGE, page
from memroute_operator.store.projections import project_pod
from memroute_simulator.engine.endings import ENDINGS
from memroute_simulator.nodes.container import ContainerProcess, termination_message, waiting

SPEC = {
    "containers": [
        {"name": "engine", "startupProbe": {"failureThreshold": 900, "periodSeconds": 2}}
    ],
    "terminationGracePeriodSeconds": 60,
}


def pod(**status):
    return {"metadata": {"name": "m-0"}, "spec": SPEC, "status": status}


def container(state, last=None, **more):
    return {"name": "engine", "state": state, "lastState": last or {}, **more}


def crashed(reason="Error", code=1, message="", **more):
    """A container that has ended so, in the back-off that follows."""
    ended = {"terminated": {"reason": reason, "exitCode": code, "message": message, **more}}
    return pod(
        phase="Running",
        containerStatuses=[
            container(waiting("CrashLoopBackOff", "back-off 20s restarting"), ended, restartCount=1)
        ],
    )


def waits(reason, message=""):
    return pod(phase="Pending", containerStatuses=[container(waiting(reason, message))])


def failed(reason, message="", **more):
    return pod(phase="Failed", reason=reason, message=message, **more)


def disrupted(reason, message="a message"):
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return pod(phase="Failed", conditions=[condition])


def fetch_ended(reason, code, message=""):
    return init_ended(reason, code, message, name="memroute-fetch")


def init_ended(reason, code, message="", name="weights"):
    ended = {"terminated": {"reason": reason, "exitCode": code, "message": message}}
    return pod(
        phase="Pending",
        initContainerStatuses=[
            {"name": name, "state": waiting("CrashLoopBackOff"), "lastState": ended}
        ],
        containerStatuses=[container(waiting("PodInitializing"))],
    )


# The name that each ending of an engine gets; the endings are played by processes below.
OF_ENDINGS = {
    "vllm-context-too-long": "ContextTooLongForCache",
    "vllm-device-taken": "DeviceMemoryTaken",
    "vllm-memory-moved": "DeviceMemoryMoved",
    "vllm-no-blocks": "NoRoomForCache",
    "vllm-context-beyond-model": "ContextBeyondModel",
    "vllm-quantization-mismatch": "QuantizationMismatch",
    "vllm-core-failed": "EngineCoreFailed",
    "sglang-weights-too-large": "StaticMemoryTooSmall",
    "sglang-no-room": "NoRoomForCache",
    "sglang-unbalanced": "DeviceMemoryTaken",
    "sglang-capture-failed": "GraphCaptureFailed",
    "sglang-context-beyond-model": "ContextBeyondModel",
    "sglang-child-died": "EngineCoreFailed",
    "llama-cpp-not-a-model": "ModelFileUnreadable",
    "llama-cpp-damaged": "WeightsDamaged",
    "llama-cpp-architecture": "ArchitectureUnsupported",
    "llama-cpp-cache-type": "CacheTypeRefused",
    "llama-cpp-no-cache": "NoRoomForCache",
    "llama-cpp-no-host-memory": "HostMemoryExhausted",
    "llama-cpp-flag": "FlagUnknown",
    "llama-cpp-flag-value": "CacheTypeRefused",
    "llama-cpp-port": "PortTaken",
    "hub-token-invalid": "HubTokenInvalid",
    "hub-gated-no-token": "ModelGated",
    "hub-gated-not-let-in": "ModelAccessDenied",
    "hub-no-such-model": "ModelNotFound",
    "hub-no-such-revision": "RevisionNotFound",
    "hub-unreachable": "HubUnreachable",
    "hub-offline": "HubUnreachable",
    "hub-rate-limit": "HubRateLimited",
    "hub-custom-code": "RemoteCodeRefused",
    "architecture-vllm": "ArchitectureUnsupported",
    "architecture-transformers": "ArchitectureUnsupported",
    "weights-missing": "WeightsMissing",
    "weights-cut": "WeightsDamaged",
    "weights-short": "WeightsDamaged",
    "tokenizer-missing": "ModelFileMissing",
    "config-missing": "ModelFileMissing",
    "driver-too-old": "DriverTooOld",
    "driver-insufficient": "DriverTooOld",
    "no-kernels": "ImageLacksKernels",
    "no-device": "NoDeviceVisible",
    "no-libcuda": "NoDeviceVisible",
    "no-device-type": "NoDeviceVisible",
    "device-lost": "DeviceFaulty",
    "device-ecc": "DeviceFaulty",
    "nccl": "CommunicationFailed",
    "nccl-timeout": "CommunicationFailed",
    "cuda-out-of-memory": "DeviceMemoryExhausted",
    "hip-out-of-memory": "DeviceMemoryExhausted",
    "world-size": "ParallelSizeRefused",
    "heads": "ParallelSizeRefused",
    "port-taken": "PortTaken",
    "disk-full": "CacheDiskFull",
    "not-writable": "CacheNotWritable",
    "read-only": "CacheNotWritable",
    "flag-unknown": "FlagUnknown",
    "flag-value": "FlagValueRefused",
    "module-missing": "ModuleMissing",
    "silent": "EngineFailing",
    "silent-usage": "ArgumentsRefused",
    "killed": "KilledFromOutside",
    "terminated": "EngineEnded",
    "ended": "EngineEnded",
    "segmentation-fault": "EngineCrashed",
    "aborted": "EngineCrashed",
    "bus-error": "SharedMemoryTooSmall",
    "illegal-instruction": "ProcessorTooOld",
    "not-found": "CommandNotFound",
}

PULL = 'failed to pull and unpack image "registry.example/vllm:v9": '
# What Kubernetes says, and the name that it gets.
OF_KUBERNETES = [
    ("ContainerDiskLimit", failed("Evicted", "Container engine exceeded its local ephemeral "
                                  'storage limit "10Gi".')),
    ("EmptyDirFull", failed("Evicted", 'Usage of EmptyDir volume "cache" exceeds the limit '
                            '"50Gi".')),
    ("NodeDiskFull", failed("Evicted", "The node was low on resource: ephemeral-storage. Threshold "
                            "quantity: 10Gi, available: 9Gi.")),
    ("NodeMemoryFull", failed("Evicted", "The node was low on resource: memory. Threshold quantity:"
                              " 100Mi, available: 80Mi.")),
    ("Evicted", failed("Evicted", "The node had condition: [PIDPressure].")),
    ("DeviceRefused", failed("UnexpectedAdmissionError", "Allocate failed due to rpc error: code = "
                             "Unavailable, which is unexpected")),
    ("NodeFull", failed("OutOfnvidia.com/gpu", "Pod was rejected: Node didn't have enough resource:"
                        " nvidia.com/gpu, requested: 1, used: 8, capacity: 8")),
    ("NodeFull", failed("OutOfcpu", "Node didn't have enough resource: cpu")),
    ("NodeAffinityLost", failed("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed")),
    ("DeadlineExceeded", failed("DeadlineExceeded", "Pod was active on the node longer than the "
                                "specified deadline")),
    ("CriticalPodPreempted", failed("Preempting", "Preempted in order to admit critical pod")),
    ("NodeShutDown", failed("Terminated", "Pod was terminated in response to imminent node "
                            "shutdown.")),
    ("PreemptedByScheduler", disrupted("PreemptionByScheduler")),
    ("NodeShutDown", disrupted("TerminationByKubelet")),
    ("NodeTaintedNoExecute", disrupted("DeletionByTaintManager")),
    ("NodeGone", disrupted("DeletionByPodGC")),
    ("DrainedByAdministrator", disrupted("EvictionByEvictionAPI")),
    ("PodFailed", failed("SomethingNew", "that nobody has words for")),
    ("DownloaderMemoryExhausted", init_ended("OOMKilled", 137)),
    ("DownloaderMemoryExhausted", fetch_ended("OOMKilled", 137)),
    ("FetchImageMissing", pod(
        phase="Pending",
        initContainerStatuses=[
            {"name": "memroute-fetch", "state": waiting("ImagePullBackOff", "back-off"),
             "lastState": {}}
        ],
    )),
    ("WeightsChecksumWrong", fetch_ended("Error", 65, "model.safetensors has other bytes")),
    ("WeightsNotFound", fetch_ended("Error", 66, "there is no revision v9")),
    ("SourceUnreachable", fetch_ended("Error", 69, "hub.example does not answer")),
    ("CacheFull", fetch_ended("Error", 73, "142 GiB are missing, 80 GiB are free")),
    ("CacheUnusable", fetch_ended("Error", 74, "Permission denied: '/cache/public'")),
    ("WeightsDenied", fetch_ended("Error", 77, "org/gated is gated")),
    ("FetcherOutdated", fetch_ended("Error", 64, "unrecognized arguments: --new")),
    ("FetchEnded", fetch_ended("Error", 143, "stopped by a signal")),
    ("FetchFailed", fetch_ended("Error", 70, "an error of memroute's own")),
    ("InitContainerFailed", init_ended("Error", 1, "curl: (22) 404")),
    ("ImageNameInvalid", waits("InvalidImageName", 'Failed to apply default image tag "VLLM/x:"')),
    ("ImageNeverPulled", waits("ErrImageNeverPull", "Container image is not present with pull "
                               "policy of Never")),
    ("ImageUnreadable", waits("ImageInspectError", "Failed to inspect image")),
    ("RegistryUnavailable", waits("RegistryUnavailable", "registry is unavailable")),
    ("ImageSignatureRefused", waits("SignatureValidationFailed", "image signature is not valid")),
    ("ImageDiskFull", waits("ErrImagePull", PULL + "write /var/lib/containerd/x: no space left on "
                            "device")),
    ("ImageRateLimited", waits("ErrImagePull", PULL + "429 Too Many Requests - toomanyrequests: You"
                               " have reached your pull rate limit")),
    ("ImageForbidden", waits("ErrImagePull", PULL + "pull access denied, repository does not exist "
                             "or may require authorization: server message: insufficient_scope")),
    ("ImageForbidden", waits("ImagePullBackOff", "Back-off pulling image: ErrImagePull: unexpected "
                             "status from HEAD request: 401 Unauthorized")),
    ("ImageWrongPlatform", waits("ErrImagePull", PULL + "no match for platform in manifest: not "
                                 "found")),
    ("ImageNotFound", waits("ImagePullBackOff", PULL + "registry.example/vllm:v9: not found")),
    ("RegistryUnreachable", waits("ErrImagePull", PULL + 'Head "https://registry.example/v2/": '
                                  "dial tcp: lookup registry.example: no such host")),
    ("ImagePullFailing", waits("ImagePullBackOff", 'Back-off pulling image "x"')),
    ("SecretMissing", waits("CreateContainerConfigError", 'secret "hub-token" not found')),
    ("SecretKeyMissing", waits("CreateContainerConfigError", "couldn't find key token in Secret "
                               "default/hub-token")),
    ("ConfigMapMissing", waits("CreateContainerConfigError", 'configmap "settings" not found')),
    ("ImageRunsAsRoot", waits("CreateContainerConfigError", "container has runAsNonRoot and image "
                              'will run as root (pod: "m-0_default(1)", container: engine)')),
    ("ContainerConfigInvalid", waits("CreateContainerConfigError", "host path is not valid")),
    ("DriverTooOldForImage", crashed("StartError", 128, "failed to create containerd task: "
                                     "nvidia-container-cli: requirement error: unsatisfied "
                                     "condition: cuda>=12.8, please update your driver")),
    ("VisibleDevicesForbidden", waits("RunContainerError", "nvidia-container-cli.real: "
     "insufficient "
                                      "privileges to read device list from NVIDIA_VISIBLE_DEVICES "
                                      "envvar")),
    ("DeviceRuntimeBroken", waits("RunContainerError", "nvidia-container-cli: initialization error:"
                                  " nvml error: driver not loaded")),
    ("DeviceRuntimeBroken", waits("CreateContainerError", "failed to inject CDI devices: "
                                  "unresolvable CDI devices nvidia.com/gpu=0")),
    ("CommandNotFound", crashed("StartError", 128, "failed to create containerd task: exec: "
                                '"sglang": executable file not found in $PATH: unknown')),
    ("ContainerRefused", waits("CreateContainerError", "the name is reserved")),
    ("ContainerWaiting", waits("SomethingNew", "that nobody has words for")),
    ("HostMemoryExhausted", crashed("OOMKilled", 137)),
    ("ContainerLost", crashed("ContainerStatusUnknown", 137, "The container could not be located")),
    ("StartTooLong", crashed(code=137, startedAt="2026-11-28T10:00:00Z",
                             finishedAt="2026-11-28T10:30:04Z", message="INFO loading weights")),
    ("EngineFailing", pod(phase="Running", containerStatuses=[container(
        waiting("CrashLoopBackOff", "back-off 5m0s restarting"))])),
]  # fmt: skip

NODES = "0/9 nodes are available: "
OF_SCHEDULER = [
    ("SchedulingGated", "SchedulingGated", ("Scheduling is blocked due to non-empty scheduling "
     "gates")),
    ("DevicesTakenMeanwhile", "Unschedulable", NODES + "1 Insufficient nvidia.com/gpu, 8 node(s) "
     "didn't match Pod's node affinity/selector. preemption: 0/9 nodes are available"),
    ("NodeLacksRoom", "Unschedulable", NODES + "1 Insufficient memory, 8 node(s) didn't match "
     "Pod's node affinity/selector."),
    ("NodeLacksRoom", "Unschedulable", NODES + "1 Too many pods, 8 node(s) didn't match Pod's node "
     "affinity/selector."),
    ("NodeTainted", "Unschedulable", NODES + "1 node(s) had untolerated taint {sku: gpu}, 8 node(s)"
     " didn't match Pod's node affinity/selector."),
    ("NodeTainted", "Unschedulable", NODES + "1 node(s) had untolerated taint(s)."),
    ("NodeUnschedulable", "Unschedulable", NODES + "1 node(s) were unschedulable, 8 node(s) didn't "
     "match Pod's node affinity/selector."),
    ("NodeLabelsDoNotMatch", "Unschedulable", NODES + "9 node(s) didn't match Pod's node "
     "affinity/selector."),
    ("VolumeClaimMissing", "Unschedulable", NODES + 'persistentvolumeclaim "weights" not found.'),
    ("VolumeClaimUnbound", "Unschedulable", NODES + "pod has unbound immediate "
     "PersistentVolumeClaims."),
    ("VolumeElsewhere", "Unschedulable", NODES + "1 node(s) had volume node affinity conflict."),
]  # fmt: skip
OF_EVENTS = [
    ("RuntimeClassMissing", "FailedCreatePodSandBox", ("Failed to create pod sandbox: rpc error: "
     'unable to get OCI runtime: no runtime for "nvidia" is configured')),
    ("VolumeHeldElsewhere", "FailedAttachVolume", 'Multi-Attach error for volume "pvc-1"'),
    ("NodeOutOfAddresses", "FailedCreatePodSandBox", ("Failed to create pod sandbox: rpc error: "
     'code = Unknown desc = failed to setup network for sandbox "1f": plugin type="aws-cni" name='
     '"aws-cni" failed (add): add cmd: failed to assign an IP address to container')),
    ("PodNetworkFailing", "FailedCreatePodSandBox", ("Failed to create pod sandbox: rpc error: "
     'failed to setup network for sandbox "1f": plugin type="cilium-cni" failed (add): timeout')),
    ("PodNetworkFailing", "NetworkNotReady", ("network is not ready: container runtime network not "
     "ready: NetworkReady=false reason:NetworkPluginNotReady")),
    ("PodSandboxFailing", "FailedCreatePodSandBox", ("Failed to create pod sandbox: rpc error: "
     "context deadline exceeded")),
    ("SecretMissing", "FailedMount", ('MountVolume.SetUp failed for volume "t" : secret "tls" not '
     "found")),
    ("ConfigMapMissing", "FailedMount", ('MountVolume.SetUp failed for volume "t" : configmap "c" '
     "not found")),
    ("SecretKeyMissing", "FailedMount", ('MountVolume.SetUp failed for volume "t" : references '
     "non-existent secret key: token")),
    ("HostPathMissing", "FailedMount", ('MountVolume.SetUp failed for volume "w" : hostPath type '
     "check failed: /models is not a directory")),
    ("VolumeDriverMissing", "FailedMount", ('MountVolume.MountDevice failed for volume "pvc-1" : '
     "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name "
     "efs.csi.example not found in the list of registered CSI drivers")),
    ("FileServerUnreachable", "FailedMount", ('MountVolume.SetUp failed for volume "nfs" : mount '
     "failed: exit status 32 Output: mount.nfs: Connection timed out")),
    ("VolumeMountFailing", "FailedMount", ("Unable to attach or mount volumes: unmounted "
     "volumes=[w], unattached volumes=[]: timed out waiting for the condition")),
    ("PullSecretMissing", "FailedToRetrieveImagePullSecret", ("Unable to retrieve some image pull "
     "secrets (regcred); attempting to pull the image may not succeed.")),
    ("LivenessProbeFailed", "Killing", "Container engine failed liveness probe, will be restarted"),
    ("PreStopFailed", "FailedPreStopHook", "PreStopHook failed"),
    ("PreemptedByScheduler", "Preempted", "Preempted by pod 6a1f on node gpu-a"),
    ("NotAnswering", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"),
    ("DeviceNotPrepared", "FailedPrepareDynamicResources", "prepare: rpc error"),
    ("StartTooLong", "Killing", "Container engine failed startup probe, will be restarted"),
]  # fmt: skip
OF_REFUSALS = [
    ("HostPathForbidden", ('pods "m-0" is forbidden: violates PodSecurity "baseline:latest": '
     'hostPath volumes (volume "memroute-weights")')),
    ("PodSecurityForbids", ('pods "m-0" is forbidden: violates PodSecurity "restricted:latest": '
     'allowPrivilegeEscalation != false (container "engine" must set …)')),
    ("QuotaExceeded", ('pods "m-0" is forbidden: exceeded quota: gpus, requested: '
     "requests.nvidia.com/gpu=2, used: requests.nvidia.com/gpu=7, limited: "
     "requests.nvidia.com/gpu=8")),
    ("QuotaNeedsRequests", ('pods "m-0" is forbidden: failed quota: compute: must specify '
     "limits.memory for: engine")),
    ("LimitRangeForbids", ('pods "m-0" is forbidden: maximum memory usage per Container is '
     '8Gi, but limit is 64Gi')),
    ("WebhookDenied", 'admission webhook "policy.example" denied the request: no latest tags'),
    ("WebhookUnreachable", ('Internal error occurred: failed calling webhook "policy.example": '
     "failed to call webhook: connection refused")),
    ("NamespaceEnding", ('pods "m-0" is forbidden: unable to create new content in namespace x '
     "because it is being terminated")),
    ("PodInvalid", 'Pod "m-0" is invalid: spec.containers[0].image: Required value'),
]  # fmt: skip


def check_words(found):
    """Nothing is left to fill in, nothing is empty, and it reads as a sentence with an order."""
    for text in (found.sentence, found.next_step):
        assert text
        assert "?" not in text
        assert not re.search(r"[{}]|\[\[|\]\]|  ", text), text
        assert not text.endswith("."), "sentences are joined"


async def played(ending, tmp_path):
    """The pod of an engine that really has ended so, as an emulated kubelet reports it.

    A shell plays it, which starts at once; that the engine's flag does the same is tried on the
    emulated fleet.
    """
    one = ENDINGS[ending]
    log = tmp_path / "0.log"
    end = f"exit {one.exit_code}"
    if one.exit_code > 128:
        end = f"kill -{signal.Signals(one.exit_code - 128).name[3:]} $$"
    process = await ContainerProcess.start(
        ["sh", "-c", f"printf '%s\\n' \"$0\"; {end}", one.lines], {"PATH": "/bin:/usr/bin"}, log
    )
    code = await process.wait()
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    state = process.terminated_state(code, termination_message(policy, code, log))
    return pod(
        phase="Running",
        containerStatuses=[container(waiting("CrashLoopBackOff"), state, restartCount=1)],
    )


@pytest.mark.parametrize(("ending", "name"), OF_ENDINGS.items())
async def test_an_engine_that_ends_so_is_understood(ending, name, tmp_path):
    """By its own words, before what only says that something failed."""
    engine = {
        "vllm": EngineType.VLLM, "sglang": EngineType.SGLANG, "llama-cpp": EngineType.LLAMA_CPP,
    }.get(ENDINGS[ending].engine)  # fmt: skip
    stopped = await played(ending, tmp_path)
    for told_engine in {engine, None}:
        found = failure_of(stopped, told_engine)
        assert found.name == name
        check_words(found)
        assert f"exit code {ENDINGS[ending].exit_code}" in found.evidence


def test_every_ending_of_the_simulated_engine_is_expected_here():
    assert OF_ENDINGS.keys() == ENDINGS.keys()


@pytest.mark.parametrize(("name", "stopped"), OF_KUBERNETES)
def test_what_kubernetes_says_is_understood(name, stopped):
    """Reasons and messages as in the source of 1.37, containerd and NVIDIA's toolkit."""
    found = failure_of(stopped)
    assert found.name == name
    check_words(found)


@pytest.mark.parametrize(("name", "reason", "message"), OF_SCHEDULER)
def test_what_kube_scheduler_says_is_understood(name, reason, message):
    """Every replica is pinned to a node: what all other nodes lack is never the reason."""
    found = scheduling_of(reason, message)
    assert found.name == name
    check_words(found)


@pytest.mark.parametrize(("name", "reason", "message"), OF_EVENTS)
def test_what_events_say_is_understood(name, reason, message):
    found = event_meaning(reason, message)
    assert found.name == name
    check_words(found)


@pytest.mark.parametrize(("name", "message"), OF_REFUSALS)
def test_what_the_api_server_refuses_is_understood(name, message):
    found = refusal_of(message)
    assert found.name == name
    check_words(found)


def test_every_signature_is_tried_above():
    """One that nothing tries may never match."""
    tried = set(OF_ENDINGS.values())
    tried |= {one[0] for one in (*OF_KUBERNETES, *OF_SCHEDULER, *OF_EVENTS, *OF_REFUSALS)}
    assert {one.name for one in ALL} - tried == set()
    assert len(ALL) >= 74


def test_what_is_on_its_way_has_not_failed():
    """A pod that pulls its image or runs for the first time is no failure."""
    assert failure_of(waits("ContainerCreating")) is None
    assert failure_of(waits("PodInitializing")) is None
    running = container({"running": {"startedAt": "2026-11-28T10:00:00Z"}})
    assert failure_of(pod(phase="Running", containerStatuses=[running])) is None
    assert last_end_of(pod(phase="Running", containerStatuses=[running])) is None
    assert failure_of(pod()) is None


def test_one_that_runs_again_is_told_with_why_it_ended():
    """Between two crashes a replica looks as if it started for the first time."""
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    again = pod(phase="Running", containerStatuses=[container({"running": {}}, ended)])
    assert failure_of(again) is None
    assert last_end_of(again).name == "HostMemoryExhausted"


def test_what_the_store_keeps_of_a_pod_is_enough_to_tell_by():
    """It keeps a part of each pod; what is not kept is never told."""
    for name, stopped in OF_KUBERNETES:
        ours = {
            "metadata": {"name": "m-0", "labels": {LABEL_DEPLOYMENT: "m"}},
            "spec": stopped["spec"], "status": stopped["status"],
        }  # fmt: skip
        assert failure_of(project_pod(ours)).name == name


def test_a_kill_after_a_short_while_is_no_slow_start():
    """Half an hour is what a start may take; kubelet's end after that is not a crash."""
    short = crashed(
        code=137, startedAt="2026-11-28T10:00:00Z", finishedAt="2026-11-28T10:02:00Z"
    )  # fmt: skip
    served = crashed(
        code=137, startedAt="2026-11-28T10:00:00Z", finishedAt="2026-11-28T20:00:00Z"
    )  # fmt: skip
    assert failure_of(short).name == failure_of(served).name == "KilledFromOutside"


def test_the_numbers_of_the_engine_are_in_the_next_step():
    """A suggestion that carries its number can be followed at once."""
    found = failure_of(crashed(message=ENDINGS["vllm-context-too-long"].lines))
    assert "to 93536 at the most" in found.next_step
    assert "131072 tokens" in found.sentence
    found = failure_of(crashed(message=ENDINGS["cuda-out-of-memory"].lines))
    assert "asked for 2.32 GiB more, 1.06 GiB of 79.20 GiB were free" in found.sentence


def test_how_far_a_start_had_come_is_told():
    """Memory that runs out while graphs are captured is mended otherwise than while loading."""
    log = "GPU KV cache size: 89,040 tokens\ntorch.OutOfMemoryError: CUDA out of memory."
    found = failure_of(crashed(message=log), EngineType.VLLM)
    assert found.evidence.startswith("exit code 1 while capturing graphs: torch.OutOfMemory")
    log = "Load weight begin. avail mem=70 GB\nKilled"
    found = failure_of(crashed("OOMKilled", 137, log), EngineType.SGLANG)
    assert found.evidence.startswith("exit code 137 while loading weights")


# Of a pod's spec, not of ours.
NOT_OURS = {"spec.schedulingGates"}


def test_every_field_that_a_suggestion_names_is_one_of_the_api(crd):
    """A suggestion that cannot be followed is worse than none."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for one in ALL:
        text = f"{one.sentence} {one.next_step}".replace("placement.", "spec.placement.")
        text = text.replace("spec.spec.", "spec.")
        for path in set(re.findall(r"\bspec(?:\.[a-z][A-Za-z]*)+", text)) - NOT_OURS:
            found = {"properties": schema}
            for part in path.split("."):
                assert part in found["properties"], f"{one.name}: {path}"
                found = found["properties"][part]


def test_every_flag_that_a_suggestion_names_is_taken():
    """``engine.args`` refuses what memroute owns: no suggestion may ask for that."""
    for one in ALL:
        for engine in one.engines or {EngineType.VLLM, EngineType.SGLANG}:
            own = re.findall(rf"{engine.spelled}: (--[a-z-]+)", one.next_step)
            for flag in own or re.findall(r"add (--[a-z-]+)", one.next_step):
                spec = {"engine": {"args": [flag], "image": "i"}}
                refused = engine_of(engine).refusal(spec)
                if engine is EngineType.VLLM:
                    refused = refusal([flag])
                assert refused is None, f"{one.name}: {flag}"


SECRETS = [
    "HF_TOKEN=hf_AbCdEfGhIjKlMnOpQrStUvWxYz",
    "Authorization: Bearer abc.def-ghi",
    "401 for https://user:pa55word@registry.example/v2",
    "GET https://s3.example/w?X-Amz-Signature=abcdef0123456789&X-Amz-Date=1",
    "api_key='sk-proj-abcdefgh12345678'",
    '{"password": "correct horse"}',
    "AWS AKIAIOSFODNN7EXAMPLE used",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP",
]


@pytest.mark.parametrize("line", SECRETS)
def test_no_secret_gets_from_a_log_into_a_status(line):
    """A status is read by a namespace; a token in a log is its owner's mistake, not its own."""
    told = last_words(f"starting\n{line}\n")
    assert "(cut)" in told
    for word in (
        "hf_AbC", "abc.def", "pa55word", "abcdef0123456789", "sk-proj", "correct", "AKIAIO",
        "eyJhbG",
    ):  # fmt: skip
        assert word not in told


def test_a_secret_in_a_flag_does_not_get_into_the_sentence_either():
    found = failure_of(crashed(message="error: unrecognized arguments: --token hf_AbCdEfGhIjKlMn"))
    assert found.sentence.endswith("no such flag: --token (cut)")


def test_what_is_quoted_is_bounded_and_one_line():
    """An engine may write megabytes, colours, and what users asked."""
    noise = "\x1b[31mERROR\x1b[0m " + "x" * 5000 + "\n\tprompt: 'my secret plan'\n" + "\n" * 50
    told = last_words(noise * 3 + "RuntimeError: boom\x00\n")
    assert len(told) <= 600
    assert "RuntimeError: boom" in told
    assert "plan" not in told
    assert told.isprintable()


@pytest.mark.parametrize("odd", ["", "{", "x" * 100_000, "\x00\x01", "{wanted} {}[[", "%s %d"])
def test_whatever_an_engine_writes_makes_a_sentence(odd):
    """Its lines are anybody's: braces are no fields, and nothing is endless."""
    for text in (odd, f"Capture cuda graph failed: {odd}", f"failed to load model from '{odd}'"):
        found = failure_of(crashed(message=text))
        assert len(found.message) < 2000


def test_the_page_is_what_its_program_writes():
    """When this fails: ``python -m memroute_operator.failures.page``."""
    assert PAGE.read_text() == page()


@pytest.mark.slow
def test_the_flag_ends_the_engine_just_so():
    """What the emulated fleet plays is what the table above is tried with."""

    async def run():
        command = [sys.executable, "-m", "memroute_simulator", "engine", "--model", "x"]
        process = await asyncio.create_subprocess_exec(
            *command, "--simulator-ending", "flag-unknown", stderr=asyncio.subprocess.PIPE
        )
        _, told = await process.communicate()
        return process.returncode, told.decode().strip()

    assert asyncio.run(run()) == (2, ENDINGS["flag-unknown"].lines)


def test_places_are_looked_at_in_the_order_of_their_enumeration():
    """The documentation lists them so."""
    order = [one.where for one in ALL]
    assert list(dict.fromkeys(order)) == [
        Where.POD, Where.DISRUPTION, Where.SCHEDULER, Where.FETCH, Where.INIT, Where.WAITING,
        Where.ENDED, Where.LOG, Where.EXIT, Where.EVENT, Where.REFUSED,
    ]  # fmt: skip
