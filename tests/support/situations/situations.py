"""What can happen to a model, made to happen on one stub cluster, and what a user is then told.

Each situation has a ModelDeployment and a node of its own. Objects are changed as a real kubelet,
kube-scheduler or API server changes them; the operator hears of it and writes. The words
are nowhere here: they are read from the status and from the Events that it has written.
``python tests/support/pages/conditions_page.py`` makes ``docs/reference/conditions.md`` of rows.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_simulator.engine.endings import ENDINGS

Obj = dict[str, Any]
PULL = 'failed to pull and unpack image "registry.example/vllm:v9": '


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One thing that happens."""

    title: str
    happens: Callable[["Scene"], None] = lambda _scene: None
    """Once its replicas serve."""
    spec: Callable[[Obj], None] = lambda _obj: None
    """What is special about the ModelDeployment from the start."""
    machine: Callable[[Obj], None] = lambda _obj: None
    """What is special about its node."""
    refused: str = ""
    """What the API server answers to the creation of its pods."""
    starts: bool = True
    """Whether its replicas serve first."""
    waits_seconds: int = 0
    """How long it lasts before it is looked at, in seconds."""
    helps: str = ""
    """The next step that the message must have; empty where none is needed."""
    kind: str = "Ready"
    """The condition that tells it."""


@dataclass(kw_only=True)
class Row:
    """What a user sees of a situation."""

    title: str
    state: str
    """Of the replica, in ``status.placements``."""
    kind: str
    status: str
    reason: str
    message: str
    events: list[str] = field(default_factory=list)
    """Type and reason of each that was written about it, in their order."""
    helps: str = ""


@dataclass(kw_only=True)
class Scene:
    """One situation's part of the cluster."""

    rig: Any
    name: str
    node: str
    events: list[Obj] = field(default_factory=list)

    @property
    def pod_key(self) -> str:
        return next(
            key for key, pod in self.rig.cluster.objects["pods"].items()
            if (pod["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT) == self.name
        )  # fmt: skip

    def pod(self, **status: Any) -> None:
        """The pod's status from now on."""
        status.setdefault("conditions", [{"type": "Ready", "status": "False"}])
        self.rig.cluster.change("pods", self.pod_key, lambda pod: pod.update(status=status))

    def waits(self, reason: str, message: str = "") -> None:
        """Its container waits, as kubelet tells it."""
        waiting = {"waiting": {"reason": reason, "message": message}}
        self.pod(phase="Pending", containerStatuses=[{"name": "engine", "state": waiting}])

    def crashed(self, message: str = "", code: int = 1, reason: str = "Error", **more: Any) -> None:
        """Its container ends again and again."""
        ended = {"reason": reason, "exitCode": code, "message": message[-4096:], **more}
        self.pod(
            phase="Running",
            containerStatuses=[{
                "name": "engine", "restartCount": 3, "lastState": {"terminated": ended},
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            }],
        )  # fmt: skip

    def ended(self, ending: str) -> None:
        """Its engine ends like that one."""
        self.crashed(ENDINGS[ending].lines, ENDINGS[ending].exit_code)

    def failed(self, reason: str, message: str, **more: Any) -> None:
        """Its pod has failed as a whole."""
        self.pod(phase="Failed", reason=reason, message=message, **more)

    def event(self, reason: str, message: str, kind: str = "Warning") -> None:
        """An Event of kubelet's on its pod."""
        uid = self.rig.cluster.objects["pods"][self.pod_key]["metadata"]["uid"]
        number = len(self.rig.cluster.objects["events"])
        self.rig.cluster.put("events", {
            "metadata": {"namespace": "default", "name": f"{self.name}.{number}"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "uid": uid},
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
            "source": {"component": "kubelet", "host": self.node},
        })  # fmt: skip

    def creating(self, reason: str, message: str, kind: str = "Warning") -> None:
        """Its container is not there yet, and an Event says why."""
        self.waits("ContainerCreating")
        self.event(reason, message, kind)

    def edit(self, change: Callable[[Obj], None]) -> None:
        """Somebody edits the ModelDeployment."""

        def edited(obj: Obj) -> None:
            change(obj["spec"])
            obj["metadata"]["generation"] += 1

        self.rig.cluster.change("modeldeployments", f"default/{self.name}", edited)

    def machine(self, change: Callable[[Obj], None]) -> None:
        """Something happens to its node."""
        self.rig.cluster.change("nodes", self.node, change)


def unscheduled(message: str) -> Callable[[Scene], None]:
    """kube-scheduler does not bind the pod."""
    condition = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return lambda scene: scene.pod(phase="Pending", conditions=[condition])


def started(scene: Scene, *, ready: bool = False) -> None:
    """Its engine loads."""
    scene.pod(
        phase="Running",
        containerStatuses=[{"name": "engine", "state": {"running": {}}, "started": ready}],
    )


def _init(scene: Scene, reason: str, code: int, message: str = "") -> None:
    ended = {"terminated": {"reason": reason, "exitCode": code, "message": message}}
    scene.pod(
        phase="Pending",
        initContainerStatuses=[{
            "name": "weights", "lastState": ended,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        }],
        containerStatuses=[
            {"name": "engine", "state": {"waiting": {"reason": "PodInitializing"}}}
        ],
    )  # fmt: skip


def _too_long(scene: Scene) -> None:
    probe = {"failureThreshold": 900, "periodSeconds": 2}
    scene.rig.cluster.change(
        "pods", scene.pod_key,
        lambda pod: pod["spec"]["containers"][0].update(startupProbe=probe),
    )  # fmt: skip
    scene.crashed(
        "INFO loading weights 3/9", 137,
        startedAt="2026-01-01T00:00:00Z", finishedAt="2026-01-01T00:30:02Z",
    )  # fmt: skip


def _killed_by_probe(scene: Scene) -> None:
    scene.crashed("INFO serving", 137)
    scene.event("Killing", "Container engine failed liveness probe, will be restarted", "Normal")


def _no_pull_secret(scene: Scene) -> None:
    scene.waits("ErrImagePull", PULL + "unexpected status from HEAD request: 401 Unauthorized")
    scene.event(
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may "
        "not succeed.",
    )


def _not_answering(scene: Scene) -> None:
    started(scene, ready=True)
    scene.event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")


def _silent(scene: Scene) -> None:
    """Its kubelet is heard of no more: Kubernetes says Unknown, and the pod is not ready."""
    scene.rig.cluster.cut_off.add(scene.node)
    unknown = [{"type": "Ready", "status": "Unknown"}]
    scene.machine(lambda obj: obj["status"].update(conditions=unknown))
    scene.pod(phase="Running", conditions=[{"type": "Ready", "status": "False"}])


def _hangs(scene: Scene) -> None:
    """Somebody deletes its pod, and its process does not end."""
    scene.rig.cluster.cut_off.add(scene.node)
    scene.rig.cluster.change(
        "pods", scene.pod_key,
        lambda pod: pod["metadata"].update(
            deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=60
        ),
    )  # fmt: skip


def _same_name(scene: Scene) -> None:
    """Somebody copies it, and leaves the served name as it is."""
    objects = scene.rig.cluster.objects["modeldeployments"]
    twin = copy.deepcopy(objects[f"default/{scene.name}"])
    twin["metadata"] |= {
        "name": f"{scene.name}-copy", "uid": f"{twin['metadata']['uid']}-copy",
        "creationTimestamp": "2026-05-01T00:00:00Z",
    }  # fmt: skip
    twin["spec"]["replicas"] = 0
    twin.pop("status", None)
    scene.rig.cluster.put("modeldeployments", twin)


def _tainted(obj: Obj) -> None:
    obj["spec"]["taints"] = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]


def _memory(**fields: Any) -> Callable[[Obj], None]:
    return lambda obj: obj["spec"]["memory"].update(fields)


def _model(name: str) -> Callable[[Obj], None]:
    return lambda obj: obj["spec"]["model"].update(name=name)


def _fills_the_device(obj: Obj) -> None:
    """Two of it have no room beside each other."""
    _model("Qwen/Qwen3-8B")(obj)
    obj["spec"]["memory"].update(maxContextTokens=8192, concurrency=20)


def _args(*args: str) -> Callable[[Obj], None]:
    return lambda obj: obj["spec"]["engine"].update(args=list(args))


def _template(**spec: Any) -> Callable[[Obj], None]:
    return lambda obj: obj["spec"].update(template={"spec": spec})


NODES = "0/9 nodes are available: "
OTHERS = "8 node(s) didn't match Pod's node affinity/selector."
FORBIDDEN = 'pods "m-0" is forbidden: '

GROUPS: dict[str, tuple[Situation, ...]] = {
    "Well, and on the way": (
        Situation(title="all replicas serve"),
        Situation(title="the engine loads its weights", happens=started),
        Situation(
            title="the image is being pulled",
            happens=lambda s: s.creating("Pulling", 'Pulling image "x"', "Normal"),
            waits_seconds=12,
        ),
        Situation(
            title="the start is slower than its weights explain", happens=started,
            waits_seconds=900, helps="shows whether it still loads, or is stuck",
        ),
        Situation(
            title="no replica is wanted", happens=lambda s: s.edit(lambda x: x.update(replicas=0)),
        ),
        Situation(
            title="paused", happens=lambda s: s.edit(lambda x: x.update(paused=True)),
            kind="Paused", helps="spec.paused",
        ),
        Situation(
            title="another one of its namespace serves the same name", happens=_same_name,
            kind="Named", helps="give one of them another spec.model.servedName",
        ),
        Situation(
            title="the spec was edited and the new revision rolls out",
            happens=lambda s: s.edit(lambda x: x["memory"].update(concurrency=5)),
        ),
        Situation(
            title="the new image is fetched ahead, because its replica has to leave first",
            spec=_fills_the_device, waits_seconds=12,
            happens=lambda s: s.edit(lambda x: x["engine"].update(image="vllm/vllm-openai:next")),
        ),
    ),
    "No place": (
        Situation(
            title="others hold the room", spec=_memory(concurrency=30), starts=False,
            machine=lambda obj: obj["metadata"]["labels"].update({"foreign": "60"}),
            helps="would fit now with",
        ),
        Situation(
            title="no device is large enough", spec=_model("Qwen/Qwen3-32B"), starts=False,
            machine=lambda obj: obj["metadata"]["labels"].update(
                {"nvidia.com/gpu.memory": "23034", "nvidia.com/gpu.product": "NVIDIA-L4"}
            ),
        ),
        Situation(
            title="a taint keeps it off", machine=_tainted, starts=False,
            helps="tolerate the taint in spec.template.spec.tolerations",
        ),
        Situation(
            title="its node is cordoned before it is placed", starts=False,
            machine=lambda obj: obj["spec"].update(unschedulable=True), helps="kubectl uncordon",
        ),
        Situation(
            title="no node has the labels of placement.nodeSelector", starts=False,
            spec=lambda obj: obj["spec"]["placement"]["nodeSelector"].update(zone="x"),
            helps="take zone=x out of placement.nodeSelector, or label the node so",
        ),
        Situation(
            title="whole devices are wanted, and its node shares them", starts=False,
            spec=lambda obj: obj["spec"]["placement"].update(mode="Exclusive"),
            helps="placement.mode=Shared",
        ),
        Situation(
            title="nothing says what the node's devices are", starts=False,
            machine=lambda obj: obj["metadata"]["labels"].update({"unread": "true"}),
            helps="is the DCGM exporter running?",
        ),
        Situation(
            title="an edit does not fit", helps="the old replicas go on serving",
            happens=lambda s: s.edit(lambda x: x["memory"].update(concurrency=4096)),
        ),
    ),
    "The spec": (
        Situation(
            title="a model that nobody knows", spec=_model("acme/unheard-of-7B"), starts=False,
            helps="spec.model.config",
        ),
        Situation(
            title="a longer context than the model was made for", starts=False,
            spec=_memory(maxContextTokens=10_000_000),
            helps="set spec.memory.maxContextTokens to 40960 at the most",
        ),
        Situation(
            title="engine.args set what memroute owns", starts=False,
            spec=_args("--gpu_memory_util=0.95"), helps="leave it out",
        ),
        Situation(
            title="spec.template sets what memroute owns", starts=False,
            spec=_template(nodeName="gpu-7"),
            helps="use spec.placement.nodeSelector, or affinity in the template",
        ),
        Situation(
            title="the model cannot be split so", starts=False,
            spec=lambda obj: obj["spec"]["parallelism"].update(tensorParallelSize=3),
            helps="it has to divide 16",
        ),
        Situation(
            title="a policy that routers do not know", kind="PolicyUnknown",
            spec=lambda obj: obj["spec"]["routing"].update(policy="fastest"),
            helps="Known are",
        ),
        Situation(
            title="a gateway's pool, and no picker is installed", kind="GatewayNotReady",
            spec=lambda obj: obj["spec"]["routing"].update(gateway={"failureMode": "FailClose"}),
            helps="picker.enabled in the chart",
        ),
        Situation(
            title="the engine needs what the spec does not say", starts=False,
            spec=lambda obj: obj["spec"]["engine"].update(type="LlamaCPP"),
            helps="name the one to load",
        ),
    ),
    "The API server refuses the pod": (
        Situation(
            title="a quota is used up", starts=False, helps="raise the quota",
            refused=FORBIDDEN + "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, "
            "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8",
        ),
        Situation(
            title="Pod Security forbids it", starts=False, helps="securityContext of spec.template",
            refused=FORBIDDEN + 'violates PodSecurity "restricted:latest": '
            'allowPrivilegeEscalation != false (container "engine" must set '
            "securityContext.allowPrivilegeEscalation=false)",
        ),
        Situation(
            title="a LimitRange forbids it", starts=False, helps="or change the LimitRange",
            refused=FORBIDDEN + "maximum memory usage per Container is 8Gi, but limit is 64Gi",
        ),
        Situation(
            title="a webhook denies it", starts=False,
            helps="change in spec.template what it names",
            refused='admission webhook "policy.example" denied the request: no latest tags',
        ),
        Situation(
            title="a webhook does not answer", starts=False, helps="bring it back",
            refused='Internal error occurred: failed calling webhook "policy.example": failed to '
            'call webhook: Post "https://policy.example": dial tcp: connection refused',
        ),
    ),
    "kube-scheduler": (
        Situation(
            title="a taint that came after the placement", helps="tolerate it in spec.template",
            happens=unscheduled(f"{NODES}1 node(s) had untolerated taint {{sku: gpu}}, {OTHERS}"),
        ),
        Situation(
            title="not enough CPU or memory beside the devices",
            helps="lower resources.requests in spec.template",
            happens=unscheduled(f"{NODES}1 Insufficient memory, {OTHERS}"),
        ),
        Situation(
            title="somebody else took the devices", helps="memroute places it elsewhere",
            happens=unscheduled(f"{NODES}1 Insufficient nvidia.com/gpu, {OTHERS}"),
        ),
        Situation(
            title="a volume claim that does not exist", helps="create it",
            happens=unscheduled(f'{NODES}persistentvolumeclaim "weights" not found.'),
        ),
        Situation(
            title="a volume that lives elsewhere", helps="use a claim that all nodes reach",
            happens=unscheduled(f"{NODES}1 node(s) had volume node affinity conflict."),
        ),
        Situation(
            title="kube-scheduler goes on to refuse every node", waits_seconds=12,
            helps="lower resources.requests in spec.template",
            happens=unscheduled(f"{NODES}1 Insufficient cpu, {OTHERS}"),
        ),
    ),
    "The image": (
        Situation(
            title="no such image", helps="correct spec.engine.image",
            happens=lambda s: s.waits("ImagePullBackOff", PULL + "vllm:v9: not found"),
        ),
        Situation(
            title="the registry refuses", helps="pull Secret that may read it",
            happens=lambda s: s.waits("ErrImagePull", PULL + "pull access denied"),
        ),
        Situation(
            title="the pull Secret does not exist", happens=_no_pull_secret, waits_seconds=12,
            helps="create it there (kubectl create secret docker-registry …)",
        ),
        Situation(
            title="the registry limits the rate", helps="a pull Secret of an account",
            happens=lambda s: s.waits("ErrImagePull", PULL + "429 Too Many Requests"),
        ),
        Situation(
            title="the registry cannot be reached", helps="check the node's DNS, proxy",
            happens=lambda s: s.waits("ErrImagePull", PULL + "dial tcp: i/o timeout"),
        ),
        Situation(
            title="the node's disk is full", helps="free space on the node",
            happens=lambda s: s.waits("ErrImagePull", PULL + "no space left on device"),
        ),
        Situation(
            title="the image has no build for the node", helps="name an image for it",
            happens=lambda s: s.waits("ErrImagePull", PULL + "no match for platform in manifest"),
        ),
    ),
    "The container does not start": (
        Situation(
            title="a Secret is missing", helps="create it there",
            happens=lambda s: s.waits("CreateContainerConfigError", 'secret "hub" not found'),
        ),
        Situation(
            title="a Secret lacks a key", helps="add the key to it",
            happens=lambda s: s.waits(
                "CreateContainerConfigError", "couldn't find key token in Secret default/hub"
            ),
        ),
        Situation(
            title="a Secret that is mounted is missing", waits_seconds=12, helps="create it there",
            happens=lambda s: s.creating(
                "FailedMount", 'MountVolume.SetUp failed for volume "t" : secret "tls" not found'
            ),
        ),
        Situation(
            title="a volume hangs on another node", waits_seconds=12,
            helps="wait until the pod there has ended",
            happens=lambda s: s.creating(
                "FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already '
                "exclusively attached to one node and can't be attached to another",
            ),
        ),
        Situation(
            title="a host path is missing", waits_seconds=12, helps="create it on the node",
            happens=lambda s: s.creating(
                "FailedMount", 'MountVolume.SetUp failed for volume "w" : hostPath type check '
                "failed: /models is not a directory",
            ),
        ),
        Situation(
            title="a file share that does not answer", waits_seconds=12,
            helps="check from the node that the server answers",
            happens=lambda s: s.creating(
                "FailedMount", 'MountVolume.SetUp failed for volume "nfs" : mount failed: exit '
                "status 32 Output: mount.nfs: Connection timed out",
            ),
        ),
        Situation(
            title="no runtime class on the node", waits_seconds=12,
            helps="install the NVIDIA container toolkit there",
            happens=lambda s: s.creating(
                "FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: code = Unknown "
                'desc = failed to get sandbox runtime: no runtime for "nvidia" is configured',
            ),
        ),
        Situation(
            title="the node has no address left", waits_seconds=12, helps="more addresses",
            happens=lambda s: s.creating(
                "FailedCreatePodSandBox", "Failed to create pod sandbox: plugin "
                'type="aws-cni" failed (add): add cmd: failed to assign an IP address to container',
            ),
        ),
        Situation(
            title="the driver is older than the image needs", helps="update the driver",
            happens=lambda s: s.crashed(
                "failed to create containerd task: nvidia-container-cli: requirement error: "
                "unsatisfied condition: cuda>=12.8, please update your driver",
                128, "StartError",
            ),
        ),
        Situation(
            title="the image has not the engine", helps="check that spec.engine.image",
            happens=lambda s: s.crashed(
                'failed to create containerd task: exec: "vllm": executable file not found in '
                "$PATH", 128, "StartError",
            ),
        ),
        Situation(
            title="a downloader runs out of host memory", helps="raise its limits.memory",
            happens=lambda s: _init(s, "OOMKilled", 137),
        ),
    ),
    "The engine fails": (
        Situation(
            title="host memory runs out", helps="raise resources.limits.memory",
            happens=lambda s: s.crashed(code=137, reason="OOMKilled"),
        ),
        Situation(
            title="device memory runs out", helps="nvidia-smi on the node",
            happens=lambda s: s.ended("cuda-out-of-memory"),
        ),
        Situation(
            title="others use the device", helps="nvidia-smi",
            happens=lambda s: s.ended("vllm-device-taken"),
        ),
        Situation(
            title="the context does not fit the cache", helps="93536 at the most",
            happens=lambda s: s.ended("vllm-context-too-long"),
        ),
        Situation(
            title="no device is visible", helps="name the runtime class",
            happens=lambda s: s.ended("no-device"),
        ),
        Situation(
            title="the driver is too old", helps="update the driver",
            happens=lambda s: s.ended("driver-too-old"),
        ),
        Situation(
            title="a device is faulty", helps="look for Xid lines",
            happens=lambda s: s.ended("device-ecc"),
        ),
        Situation(
            title="devices cannot speak to each other", helps="NCCL_DEBUG=INFO",
            happens=lambda s: s.ended("nccl"),
        ),
        Situation(
            title="the port is taken", helps="take the other server out of spec.template",
            happens=lambda s: s.ended("port-taken"),
        ),
        Situation(
            title="the model is gated, no token", helps="HF_TOKEN",
            happens=lambda s: s.ended("hub-gated-no-token"),
        ),
        Situation(
            title="the token's account may not read it", helps="ask",
            happens=lambda s: s.ended("hub-gated-not-let-in"),
        ),
        Situation(
            title="the hub cannot be reached", helps="proxy",
            happens=lambda s: s.ended("hub-unreachable"),
        ),
        Situation(
            title="weights are missing", helps="check what it holds",
            happens=lambda s: s.ended("weights-missing"),
        ),
        Situation(
            title="weights are damaged", helps="let it be fetched anew",
            happens=lambda s: s.ended("weights-cut"),
        ),
        Situation(
            title="the engine does not know the architecture", helps="spec.engine.image",
            happens=lambda s: s.ended("architecture-vllm"),
        ),
        Situation(
            title="the disk of the weights is full", helps="give it more room",
            happens=lambda s: s.ended("disk-full"),
        ),
        Situation(
            title="a flag that the engine does not know", helps="take it out of spec.engine.args",
            happens=lambda s: s.ended("flag-unknown"),
        ),
        Situation(
            title="it is killed and nobody says by whom", helps="kubectl describe pod",
            happens=lambda s: s.crashed(code=137),
        ),
        Situation(
            title="a liveness probe kills it", happens=_killed_by_probe, waits_seconds=12,
            helps="livenessProbe.failureThreshold",
        ),
        Situation(
            title="it crashes in native code", helps="keep kubectl logs --previous",
            happens=lambda s: s.ended("segmentation-fault"),
        ),
        Situation(
            title="it is never ready in its time", happens=_too_long,
            helps="kubectl logs --previous shows how far it had come",
        ),
        Situation(
            title="it ends and says nothing", helps="kubectl logs --previous",
            happens=lambda s: s.ended("silent"),
        ),
        Situation(
            title="it runs and does not answer", happens=_not_answering, waits_seconds=12,
            helps="kubectl logs shows what it does",
        ),
    ),
    "The node, and other controllers": (
        Situation(
            title="evicted for the node's disk", waits_seconds=3, helps="free space on the node",
            happens=lambda s: s.failed(
                "Evicted", "The node was low on resource: ephemeral-storage. Threshold quantity: "
                "10Gi, available: 9Gi.",
            ),
        ),
        Situation(
            title="evicted for the node's memory", waits_seconds=3,
            helps="set resources.requests.memory",
            happens=lambda s: s.failed("Evicted", "The node was low on resource: memory."),
        ),
        Situation(
            title="the device plugin refuses", waits_seconds=3,
            helps="look at the device plugin's pod",
            happens=lambda s: s.failed(
                "UnexpectedAdmissionError", "Allocate failed due to rpc error: code = Unavailable"
            ),
        ),
        Situation(
            title="the node shuts down", waits_seconds=3,
            helps="memroute places the replica elsewhere",
            happens=lambda s: s.failed(
                "Terminated", "Pod was terminated in response to imminent node shutdown."
            ),
        ),
        Situation(
            title="kube-scheduler preempts it", waits_seconds=3, helps="priorityClassName",
            happens=lambda s: s.failed("", "", conditions=[{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod",
            }]),
        ),
        Situation(
            title="the node does not answer", happens=_silent, waits_seconds=12,
        ),
        Situation(
            title="the node has not answered for long", happens=_silent, waits_seconds=900,
            helps="out of placement.nodeSelector, or label the node so",
        ),
        Situation(
            title="the pod hangs in Terminating", happens=_hangs, waits_seconds=900,
            kind="Placed", helps="or restart the node",
        ),
        Situation(
            title="the node is cordoned under it", kind="Progressing",
            happens=lambda s: s.machine(lambda obj: obj["spec"].update(unschedulable=True)),
        ),
        Situation(
            title="its name is another pod's", starts=False,
            spec=lambda obj: obj["metadata"].setdefault("annotations", {}).update(taken="true"),
            helps="delete what has the name",
        ),
    ),
}  # fmt: skip

SITUATIONS = [(group, one) for group, several in GROUPS.items() for one in several]
