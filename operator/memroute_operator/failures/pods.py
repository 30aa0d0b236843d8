"""What Kubernetes says of a pod as a whole: reasons as in the source of 1.37."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern, words

POD: Final = (
    Signature(
        name="ContainerDiskLimit", where=Where.POD, reasons=words("Evicted"),
        pattern=pattern(r"exceeded its local ephemeral storage limit|"
                    r"Pod ephemeral local storage usage exceeds the total limit"),
        seen_as="`Evicted`: `exceeded its local ephemeral storage limit`",
        sentence="the replica wrote more into its container's own disk than it may",
        next_step="mount a volume where the weights go, or raise the limit of ephemeral-storage in "
                  "spec.template",
    ),
    Signature(
        name="EmptyDirFull", where=Where.POD, reasons=words("Evicted"),
        pattern=pattern(r"Usage of EmptyDir volume \"(?P<volume>[^\"]+)\" exceeds the limit"
                    r"(?: \"(?P<limit>[^\"]+)\")?"),
        seen_as='`Evicted`: `Usage of EmptyDir volume "x" exceeds the limit`',
        sentence="the emptyDir {volume} grew past its limit",
        next_step="raise its sizeLimit (that of the weights is spec.model.cache.sizeGiB), or keep "
                  "the weights on a volume claim",
    ),
    Signature(
        name="NodeDiskFull", where=Where.POD, reasons=words("Evicted"),
        pattern=pattern(r"ephemeral-storage|DiskPressure|nodefs|imagefs|inodes"),
        seen_as="`Evicted`: `The node was low on resource: ephemeral-storage.`",
        sentence="the node's disk ran full and kubelet evicted the replica",
        next_step="free space on the node (images, logs), or keep the weights on a volume; "
                  "memroute places the replica on another node meanwhile",
    ),
    Signature(
        name="NodeMemoryFull", where=Where.POD, reasons=words("Evicted"),
        pattern=pattern(r"memory"),
        seen_as="`Evicted`: `The node was low on resource: memory.`",
        sentence="the node ran out of host memory and kubelet evicted the replica",
        next_step="set resources.requests.memory in spec.template near what the engine uses, so "
                  "that kubelet evicts others first and the node is not overbooked",
    ),
    Signature(
        name="Evicted", where=Where.POD, reasons=words("Evicted"),
        seen_as="`Evicted`",
        sentence="kubelet evicted the replica from its node",
        next_step="look at the node's conditions (kubectl describe node); memroute places the "
                  "replica on another node meanwhile",
    ),
    Signature(
        name="DeviceRefused", where=Where.POD, reasons=words("UnexpectedAdmissionError"),
        seen_as="`UnexpectedAdmissionError`: `Allocate failed due to …`",
        sentence="the device plugin did not give the accelerators that the node had promised",
        next_step="look at the device plugin's pod on that node (it may be restarting, or a device "
                  "unhealthy); memroute tries again, elsewhere if there is room",
    ),
    Signature(
        name="NodeFull", where=Where.POD, reasons=frozenset(),
        pattern=pattern(r"^OutOf(?P<resource>\S+)"),
        seen_as="`OutOfcpu`, `OutOfmemory`, `OutOfpods`, `OutOfnvidia.com/gpu`",
        sentence="the node had no {resource} left when kubelet admitted the replica",
        next_step="nothing to do once: memroute tries again, elsewhere if there is room; if it "
                  "repeats, look for pods with nodeName set, which kube-scheduler does not count",
    ),
    Signature(
        name="NodeAffinityLost", where=Where.POD, reasons=words("NodeAffinity"),
        seen_as="`NodeAffinity`",
        sentence="the node's labels changed before kubelet admitted the replica",
        next_step="check placement.nodeSelector against kubectl get node --show-labels; memroute "
                  "places the replica anew",
    ),
    Signature(
        name="DeadlineExceeded", where=Where.POD, reasons=words("DeadlineExceeded"),
        seen_as="`DeadlineExceeded`",
        sentence="the pod ran for as long as its activeDeadlineSeconds allow",
        next_step="take activeDeadlineSeconds off the pods (a webhook may set it): a server has no "
                  "deadline",
    ),
    Signature(
        name="CriticalPodPreempted", where=Where.POD, reasons=words("Preempting", "Preempted"),
        seen_as="`Preempting`: `Preempted in order to admit critical pod`",
        sentence="kubelet ended the replica to make room for a critical pod of the system",
        next_step="request CPU and memory near what the engine uses in spec.template, and keep "
                  "some of the node unrequested for its daemons",
    ),
    Signature(
        name="NodeShutDown", where=Where.POD, reasons=words("Terminated", "NodeShutdown"),
        seen_as="`Terminated`: `Pod was terminated in response to imminent node shutdown.`",
        sentence="the node was shut down",
        next_step="nothing to do: memroute places the replica elsewhere if there is room, and here "
                  "once the node is back",
    ),
)  # fmt: skip

DISRUPTIONS: Final = (
    Signature(
        name="PreemptedByScheduler", where=Where.DISRUPTION,
        reasons=words("PreemptionByScheduler"),
        seen_as="`DisruptionTarget`: `PreemptionByScheduler`",
        sentence="kube-scheduler ended the replica for a pod of higher priority",
        next_step="give the model a priorityClassName in spec.template, or keep such pods off its "
                  "nodes",
    ),
    Signature(
        name="NodeShutDown", where=Where.DISRUPTION, reasons=words("TerminationByKubelet"),
        seen_as="`DisruptionTarget`: `TerminationByKubelet`",
        sentence="kubelet ended the replica: the node is shutting down or short of something",
        next_step="look at kubectl describe node; memroute places the replica elsewhere if there "
                  "is room",
    ),
    Signature(
        name="NodeTaintedNoExecute", where=Where.DISRUPTION,
        reasons=words("DeletionByTaintManager"),
        seen_as="`DisruptionTarget`: `DeletionByTaintManager`",
        sentence="the replica was deleted because its node was tainted NoExecute",
        next_step="a node that is unreachable is tainted so by Kubernetes: look at kubectl "
                  "describe "
                  "node; a taint of your own, take off or tolerate in spec.template",
    ),
    Signature(
        name="NodeGone", where=Where.DISRUPTION, reasons=words("DeletionByPodGC"),
        seen_as="`DisruptionTarget`: `DeletionByPodGC`",
        sentence="the replica's node is gone from the cluster",
        next_step="nothing to do where it was scaled away; else look why the node has left",
    ),
    Signature(
        name="DrainedByAdministrator", where=Where.DISRUPTION,
        reasons=words("EvictionByEvictionAPI"),
        seen_as="`DisruptionTarget`: `EvictionByEvictionAPI`",
        sentence="the replica was evicted on purpose (kubectl drain, or an autoscaler)",
        next_step="nothing to do: it is placed again where there is room",
    ),
)  # fmt: skip

SCHEDULER: Final = (
    Signature(
        name="SchedulingGated", where=Where.SCHEDULER, reasons=words("SchedulingGated"),
        seen_as="`PodScheduled`: `SchedulingGated`",
        sentence="the pod waits for a scheduling gate that is not memroute's",
        next_step="look who puts it there (kubectl get pod -o yaml, spec.schedulingGates): Kueue, "
                  "for instance, waits for quota",
    ),
    Signature(
        name="VolumeClaimMissing", where=Where.SCHEDULER,
        pattern=pattern(r"persistentvolumeclaim \"(?P<claim>[^\"]+)\" not found"),
        seen_as='`persistentvolumeclaim "x" not found`',
        sentence="the volume claim {claim} does not exist in this namespace",
        next_step="create it (kubectl get pvc lists those that exist), or name another in spec",
    ),
    Signature(
        name="VolumeClaimUnbound", where=Where.SCHEDULER,
        pattern=pattern(r"unbound immediate PersistentVolumeClaims|"
                    r"didn't find available persistent volumes to bind"),
        seen_as="`pod has unbound immediate PersistentVolumeClaims`",
        sentence="a volume claim of the replica is not bound to a volume",
        next_step="look at kubectl describe pvc: its storage class may be missing, or have no room",
    ),
    Signature(
        name="VolumeElsewhere", where=Where.SCHEDULER,
        pattern=pattern(r"volume node affinity conflict"),
        seen_as="`had volume node affinity conflict`",
        sentence="the volume of the replica lives on another node or zone than its accelerators",
        next_step="use a claim that all nodes reach (ReadWriteMany), or keep the model to the "
                  "volume's nodes with placement.nodeSelector",
    ),
    Signature(
        name="DevicesTakenMeanwhile", where=Where.SCHEDULER,
        pattern=pattern(r"Insufficient (?P<resource>[a-z0-9.-]+/\S+?)[,. ]"),
        seen_as="`Insufficient nvidia.com/gpu`",
        sentence="the node has not as many {resource} free as the replica needs: somebody else "
                 "took "
                 "them after memroute had placed it",
        next_step="nothing to do once: memroute places it elsewhere; if it repeats, keep other "
                  "pods off the node with a taint",
    ),
    Signature(
        name="NodeLacksRoom", where=Where.SCHEDULER,
        pattern=pattern(r"Insufficient (?P<resource>cpu|memory|ephemeral-storage|pods)|"
                    r"(?P<pods>Too many pods)"),
        seen_as="`Insufficient cpu`, `Insufficient memory`, `Too many pods`",
        sentence="the node has accelerators for the replica, but not enough beside them"
                 "[[ ({resource})]][[ ({pods})]]",
        next_step="lower resources.requests in spec.template (or memory.hostKVCacheGiB), or move "
                  "other pods off the node",
    ),
    Signature(
        name="NodeTainted", where=Where.SCHEDULER,
        pattern=pattern(r"untolerated taint(?:\(s\))? ?\{(?P<taint>[^}:]*)|untolerated taint"),
        seen_as="`node(s) had untolerated taint(s)`",
        sentence="the node has a taint that the replica does not tolerate[[ ({taint})]]",
        next_step="tolerate it in spec.template, or take it off (kubectl taint nodes NODE KEY-)",
    ),
    Signature(
        name="NodeUnschedulable", where=Where.SCHEDULER,
        pattern=pattern(r"were unschedulable"),
        seen_as="`node(s) were unschedulable`",
        sentence="the node was cordoned after memroute had placed the replica on it",
        next_step="kubectl uncordon it, or wait: memroute places the replica elsewhere",
    ),
    Signature(
        name="NodeLabelsDoNotMatch", where=Where.SCHEDULER,
        pattern=pattern(r"didn't match Pod's node (?:affinity|selector)"),
        seen_as="`didn't match Pod's node affinity/selector`",
        sentence="no node that the replica may run on has the labels that its pod asks for",
        next_step="check placement.nodeSelector and the affinity in spec.template against kubectl "
                  "get node --show-labels",
    ),
)  # fmt: skip
