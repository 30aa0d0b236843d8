"""What a template may not say: both the API server and the operator have to refuse it."""


def pod(**fields):
    return {"spec": fields}


def engine(**fields):
    return pod(containers=[{"name": "engine"} | fields])


def sidecar(**fields):
    return pod(containers=[{"name": "proxy", "image": "envoy"} | fields])


def first(**fields):
    return pod(initContainers=[{"name": "first", "image": "busybox"} | fields])


# What is wrong → a template, what the API server says of it, what the operator says of it.
REFUSED = {
    "a label of memroute's": (
        {"metadata": {"labels": {"memroute.dev/model-deployment": "other"}}},
        "metadata.labels must not set keys of memroute.dev",
        "spec.template.metadata.labels must not set memroute.dev/model-deployment",
    ),
    "an annotation of memroute's": (
        {"metadata": {"annotations": {"x.memroute.dev/reservation": "{}"}}},
        "metadata.annotations must not set keys of memroute.dev",
        "spec.template.metadata.annotations must not set x.memroute.dev/reservation",
    ),
    "devices by an annotation": (
        {"metadata": {"annotations": {"cdi.k8s.io/all": "nvidia.com/gpu=all"}}},
        "metadata.annotations must not name devices",
        "spec.template.metadata.annotations must not set cdi.k8s.io/all",
    ),
    "no AppArmor by an annotation": (
        {
            "metadata": {
                "annotations": {
                    "container.apparmor.security.beta.kubernetes.io/engine": "unconfined"
                }
            }
        },
        "must not set AppArmor to unconfined",
        "kubernetes.io/engine to unconfined",
    ),
    "another manager": (
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "must not set keys of memroute.dev or app.kubernetes.io/managed-by",
        "must not set app.kubernetes.io/managed-by",
    ),
    "a node of one's own": (
        pod(nodeName="gpu-a"), "nodeName must not be set, because memroute chooses the node",
        "spec.template.spec.nodeName must not be set, because memroute chooses the node",
    ),
    "a gate": (
        pod(schedulingGates=[{"name": "mine"}]), "schedulingGates must not be set",
        "spec.template.spec.schedulingGates must not be set, because memroute orders starts",
    ),
    "a deadline": (
        pod(activeDeadlineSeconds=60), "activeDeadlineSeconds must not be set",
        "activeDeadlineSeconds must not be set, because an engine serves",
    ),
    "devices of DRA": (
        pod(resourceClaims=[{"name": "gpu"}]), "resourceClaims must not be set",
        "resourceClaims must not be set, because memroute chooses the devices",
    ),
    "an engine that ends": (
        pod(restartPolicy="Never"), "restartPolicy must be Always", "restartPolicy must be Always",
    ),
    "the node's network": (
        pod(hostNetwork=True), "hostNetwork must not be true",
        "spec.template.spec.hostNetwork must not be true",
    ),
    "the node's processes": (
        pod(hostPID=True), "hostPID must not be true", "hostPID must not be true",
    ),
    "the node's disk": (
        pod(volumes=[{"name": "root", "hostPath": {"path": "/"}}]), "hostPath must not be set",
        "spec.template.spec.volumes[0].hostPath must not be set",
    ),
    "the node's ports": (
        sidecar(ports=[{"containerPort": 80, "hostPort": 80}]), "hostPort must not be set",
        "containers[0].ports[0].hostPort must not be set",
    ),
    "a privileged engine": (
        engine(securityContext={"privileged": True}), "privileged must not be true",
        "containers[0].securityContext.privileged must not be true",
    ),
    "a privileged init container": (
        first(securityContext={"privileged": True}), "privileged must not be true",
        "initContainers[0].securityContext.privileged must not be true",
    ),
    "more rights than baseline": (
        sidecar(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        "capabilities.add must only name those of Pod Security baseline",
        "capabilities.add must not name SYS_ADMIN",
    ),
    "no seccomp": (
        engine(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        "seccompProfile.type must not be Unconfined",
        "containers[0].securityContext.seccompProfile.type must not be Unconfined",
    ),
    "no seccomp for the pod": (
        pod(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        "seccompProfile.type must not be Unconfined",
        "spec.securityContext.seccompProfile.type must not be Unconfined",
    ),
    "the engine's image": (
        engine(image="mine"), "image must not be set for the container engine",
        "containers[0].image must not be set for the container engine: use spec.engine.image",
    ),
    "the engine's command": (
        engine(command=["bash"]), "command must not be set for the container engine",
        "command must not be set for the container engine",
    ),
    "the engine's flags": (
        engine(args=["--gpu-memory-utilization=1"]), "args must not be set for",
        "args must not be set for the container engine: use spec.engine.args",
    ),
    "the engine's port": (
        engine(ports=[{"containerPort": 9}]), "ports must not be set for the container engine",
        "ports must not be set for the container engine",
    ),
    "the engine's readiness": (
        engine(readinessProbe={"periodSeconds": 60}), "readinessProbe must not be set",
        "readinessProbe must not be set for the container engine",
    ),
    "the engine's end": (
        engine(lifecycle={"preStop": {"sleep": {"seconds": 600}}}), "lifecycle must not be set",
        "lifecycle must not be set for the container engine",
    ),
    "devices by a variable": (
        engine(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
        "env must not choose devices", "env[0] must not set NVIDIA_VISIBLE_DEVICES",
    ),
    "devices of a sidecar by a variable": (
        sidecar(env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]),
        "env must not choose devices", "env[0] must not set CUDA_VISIBLE_DEVICES",
    ),
    "the engine's address": (
        engine(env=[{"name": "POD_IP", "value": "::"}]), "env must not set POD_IP",
        "env[0] must not set POD_IP",
    ),
    "what the engine listens on": (
        engine(env=[{"name": "MEMROUTE_BIND_ADDRESS", "value": "::1"}]),
        "env must not set variables of MEMROUTE_", "env[0] must not set MEMROUTE_BIND_ADDRESS",
    ),
    "more devices": (
        engine(resources={"limits": {"nvidia.com/gpu": 8}}), "resources must not name devices",
        "containers[0].resources.limits must not name nvidia.com/gpu",
    ),
    "a slice for a sidecar": (
        sidecar(resources={"requests": {"nvidia.com/mig-1g.10gb": "1"}}),
        "resources must not name devices", "must not name nvidia.com/mig-1g.10gb",
    ),
    "a container that is nobody's": (
        pod(containers=[{"name": "enigne", "env": []}]), "a container needs an image",
        "is 'enigne' meant to be engine?",
    ),
    "an init container called engine": (
        pod(initContainers=[{"name": "engine", "image": "x"}]), "must not be called engine",
        "initContainers[0].name must not be engine",
    ),
}  # fmt: skip
# What only the operator sees: the schema of the API says nothing of it.
REFUSED_BY_THE_OPERATOR = {
    "a directive": (engine(**{"$patch": "delete"}), "$patch must not be set"),
    "a directive deep down": (
        engine(resources={"limits": {"$patch": "replace"}}), "resources.limits.$patch must not",
    ),
    "a wish for nodes": (
        pod(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{}]}}),
        "must not be set, because memroute chooses the node: use required",
    ),
    "another way to ask the engine": (
        engine(livenessProbe={"exec": {"command": ["true"]}}),
        "livenessProbe.exec must not be set for the container engine",
    ),
    "a name": ({"metadata": {"name": "me"}}, "spec.template.metadata.name must not be set"),
    "a claim of a container": (
        engine(resources={"claims": [{"name": "gpu"}]}), "resources.claims must not be set",
    ),
    "no spec at all": ({"spec": ["hostNetwork"]}, "is no part of a PodTemplateSpec"),
    "containers by name": (
        {"spec": {"containers": {"engine": {}}}}, "is no part of a PodTemplateSpec",
    ),
    "unmasked processes": (
        engine(securityContext={"procMount": "Unmasked"}), "procMount must be Default",
    ),
    "sysctls": (
        pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
        "sysctls must not be set",
    ),
}  # fmt: skip
