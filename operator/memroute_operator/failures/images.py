"""Why a container does not start: its image, its configuration, its runtime."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern, words

_PULL = words("ErrImagePull", "ImagePullBackOff")

WAITING: Final = (
    Signature(
        name="ImageNameInvalid", where=Where.WAITING, reasons=words("InvalidImageName"),
        seen_as="`InvalidImageName`",
        sentence="the name of the image cannot be read",
        next_step="correct spec.engine.image: REGISTRY/REPOSITORY:TAG, lower case, no spaces",
    ),
    Signature(
        name="ImageNeverPulled", where=Where.WAITING, reasons=words("ErrImageNeverPull"),
        seen_as="`ErrImageNeverPull`",
        sentence="the image is not on the node, and its pull policy is Never",
        next_step="load the image onto the node, or take imagePullPolicy off",
    ),
    Signature(
        name="ImageUnreadable", where=Where.WAITING, reasons=words("ImageInspectError"),
        seen_as="`ImageInspectError`",
        sentence="the node's container runtime cannot read the image that it has pulled",
        next_step="remove the image from the node (crictl rmi) so that it is pulled anew; look at "
                  "the node's disk",
    ),
    Signature(
        name="RegistryUnavailable", where=Where.WAITING, reasons=words("RegistryUnavailable"),
        seen_as="`RegistryUnavailable`",
        sentence="the image's registry is not available",
        next_step="wait for it, or name a mirror's copy in spec.engine.image",
    ),
    Signature(
        name="ImageSignatureRefused", where=Where.WAITING,
        reasons=words("SignatureValidationFailed"),
        seen_as="`SignatureValidationFailed`",
        sentence="the node's policy refuses the image's signature",
        next_step="use an image that is signed as the policy asks, or have it allowed",
    ),
    Signature(
        name="ImageDiskFull", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"no space left on device"),
        seen_as="image pull: `no space left on device`",
        sentence="the node's disk is full: the image cannot be unpacked",
        next_step="free space on the node (crictl rmi --prune), or give it a larger disk",
    ),
    Signature(
        name="ImageRateLimited", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"toomanyrequests|429 too many|rate limit"),
        seen_as="image pull: `toomanyrequests`, `429`",
        sentence="the registry lets this node pull no more for now",
        next_step="give the namespace's default ServiceAccount a pull Secret of an account, or "
                  "name "
                  "a mirror's copy in spec.engine.image; kubelet tries again meanwhile",
    ),
    Signature(
        name="ImageForbidden", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"unauthorized|pull access denied|authorization failed|insufficient_scope|"
                    r"\b40[13]\b|no basic auth|denied"),
        seen_as="image pull: `unauthorized`, `pull access denied`, `401`, `403`",
        sentence="the registry refuses to give the image to this cluster",
        next_step="give the namespace's default ServiceAccount a pull Secret that may read it, or "
                  "name one in spec.template; check the repository's name too: many registries "
                  "say so of one that does not exist",
    ),
    Signature(
        name="ImageWrongPlatform", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"no match(?:ing manifest)? for platform|no matching manifest"),
        seen_as="image pull: `no match for platform in manifest`",
        sentence="the image has no build for this node's processor",
        next_step="name an image for it in spec.engine.image (arm64 and amd64 are often two tags), "
                  "or keep the model to other nodes with placement.nodeSelector",
    ),
    Signature(
        name="ImageNotFound", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"not found|manifest unknown|name unknown"),
        seen_as="image pull: `not found`, `manifest unknown`",
        sentence="the image or its tag does not exist",
        next_step="correct spec.engine.image",
    ),
    Signature(
        name="RegistryUnreachable", where=Where.WAITING, reasons=_PULL,
        pattern=pattern(r"dial tcp|i/o timeout|x509|no such host|connection refused|EOF|"
                    r"TLS handshake|deadline exceeded"),
        seen_as="image pull: `dial tcp`, `i/o timeout`, `x509`",
        sentence="the node cannot reach the image's registry, or does not trust its certificate",
        next_step="check the node's DNS, proxy and certificates, or name a mirror's copy in "
                  "spec.engine.image; kubelet tries again meanwhile",
    ),
    Signature(
        name="ImagePullFailing", where=Where.WAITING, reasons=_PULL,
        seen_as="`ErrImagePull`, `ImagePullBackOff`",
        sentence="the image cannot be pulled",
        next_step="kubectl describe pod has the registry's answer; kubelet tries again meanwhile",
    ),
    Signature(
        name="SecretKeyMissing", where=Where.WAITING,
        pattern=pattern(r"couldn't find key (?P<key>\S+) in (?:Secret |ConfigMap "
                        r")?(?P<secret>\S+)"),
        seen_as="`couldn't find key K in Secret NS/NAME`",
        sentence="{secret} has no key {key}",
        next_step="add the key to it, or name the key that it has in spec.engine.env; the replica "
                  "starts by itself then",
    ),
    Signature(
        name="SecretMissing", where=Where.WAITING,
        pattern=pattern(r"secrets? \"(?P<secret>[^\"]+)\" not found"),
        seen_as='`CreateContainerConfigError`: `secret "x" not found`',
        sentence="the Secret {secret} does not exist in this namespace",
        next_step="create it there (kubectl create secret generic {secret} …); the replica starts "
                  "by itself then",
    ),
    Signature(
        name="ConfigMapMissing", where=Where.WAITING,
        pattern=pattern(r"configmaps? \"(?P<config_map>[^\"]+)\" not found"),
        seen_as='`CreateContainerConfigError`: `configmap "x" not found`',
        sentence="the ConfigMap {config_map} does not exist in this namespace",
        next_step="create it there; the replica starts by itself then",
    ),
    Signature(
        name="ImageRunsAsRoot", where=Where.WAITING,
        pattern=pattern(r"runAsNonRoot and image (?:will run as root|has non-numeric user)"),
        seen_as="`container has runAsNonRoot and image will run as root`",
        sentence="the pod may not run as root, and the image does",
        next_step="set runAsUser in the securityContext of spec.template, or take an image that "
                  "runs as another user",
    ),
    Signature(
        name="DriverTooOldForImage", where=Where.WAITING,
        pattern=pattern(r"unsatisfied condition: (?P<need>cuda\s*>=?\s*[\d.]+)"),
        seen_as="`nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8`",
        sentence="the node's NVIDIA driver is older than the image needs ({need})",
        next_step="update the driver on the node, or name an image for an older CUDA in "
                  "spec.engine.image",
    ),
    Signature(
        name="VisibleDevicesForbidden", where=Where.WAITING,
        pattern=pattern(r"insufficient privileges to read device list"),
        seen_as="`insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES`",
        sentence="the node's NVIDIA runtime does not let pods without privilege choose devices, "
                 "which sharing them needs",
        next_step="set accept-nvidia-visible-devices-envvar-when-unprivileged = true in the node's "
                  "container toolkit (docs/how-to/share-gpus.md), or placement.mode Exclusive",
    ),
    Signature(
        name="DeviceRuntimeBroken", where=Where.WAITING,
        pattern=pattern(r"nvidia-container-cli|nvidia-container-runtime|unresolvable CDI devices|"
                    r"failed to inject CDI"),
        seen_as="`nvidia-container-cli: initialization error`, `unresolvable CDI devices`",
        sentence="the NVIDIA container toolkit on the node does not work, or has lost a device",
        next_step="run nvidia-smi on the node and restart the toolkit and device plugin; cordon "
                  "the node until then",
    ),
    Signature(
        name="CommandNotFound", where=Where.WAITING,
        pattern=pattern(r"exec: \"(?P<command>[^\"]+)\"|executable file not found|"
                    r"no such file or directory"),
        reasons=words("RunContainerError", "CreateContainerError", "StartError"),
        seen_as="`RunContainerError`: `executable file not found in $PATH`",
        sentence="the image has not the program that it is to run[[ ({command})]]",
        next_step="check that spec.engine.image is an image of spec.engine.type",
    ),
    Signature(
        name="ContainerConfigInvalid", where=Where.WAITING,
        reasons=words("CreateContainerConfigError"),
        seen_as="`CreateContainerConfigError`",
        sentence="kubelet cannot make the container's configuration",
        next_step="correct what the message names, in spec.engine.env or spec.template",
    ),
    Signature(
        name="ContainerRefused", where=Where.WAITING,
        reasons=words("CreateContainerError", "RunContainerError", "CreatePodSandboxError"),
        seen_as="`CreateContainerError`, `RunContainerError`",
        sentence="the node's container runtime refuses to start the container",
        next_step="correct what the message names; kubelet tries again meanwhile",
    ),
)  # fmt: skip
