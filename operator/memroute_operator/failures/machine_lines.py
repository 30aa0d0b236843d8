"""What engines write when the machine fails them, or they it: torch, CUDA, argparse, the kernel."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern

# The field that bounds a request.
_CONTEXT = "spec.memory.maxContextTokens"

MACHINE_LINES: Final = (
    Signature(
        name="DriverTooOld", where=Where.LOG,
        pattern=pattern(r"NVIDIA driver on your system is too old(?: \(found version "
                        r"(?P<found>\d+)\))?|"
                    r"CUDA driver version is insufficient for CUDA runtime version"),
        seen_as="`The NVIDIA driver on your system is too old (found version N)`, `CUDA driver "
                "version is insufficient`",
        sentence="the node's NVIDIA driver is older than the image needs",
        next_step="update the driver on the node, or name an image for an older CUDA in "
                  "spec.engine.image",
    ),
    Signature(
        name="ImageLacksKernels", where=Where.LOG,
        pattern=pattern(r"no kernel image is available for execution on the device|"
                    r"is not compatible with the current PyTorch installation"),
        seen_as="`no kernel image is available for execution on the device`",
        sentence="the image was not built for this generation of devices",
        next_step="name an image that is in spec.engine.image, or keep the model to other devices "
                  "with placement.nodeSelector",
    ),
    Signature(
        name="NoDeviceVisible", where=Where.LOG,
        pattern=pattern(r"No CUDA GPUs are available|no CUDA-capable device|Failed to infer "
                        r"device type|"
                    r"libcuda\.so\.1: cannot open shared object file|no usable GPU found"),
        seen_as="`No CUDA GPUs are available`, `libcuda.so.1: cannot open shared object file`, "
                "`Failed to infer device type`",
        sentence="the container sees no device",
        next_step="the node's default container runtime is not NVIDIA's: set it, or name the "
                  "runtime class (--shared-runtime-class for shared devices, runtimeClassName in "
                  "spec.template for whole ones)",
    ),
    Signature(
        name="DeviceFaulty", where=Where.LOG,
        pattern=pattern(r"uncorrectable ECC error|CUDA error: (?:device unavailable|"
                    r"unspecified launch failure|an illegal memory access|device lost)|"
                    r"GPU is lost|fell off the bus"),
        seen_as="`CUDA error: uncorrectable ECC error`, `device unavailable`, `unspecified launch "
                "failure`",
        sentence="the device failed while the engine used it",
        next_step="look for Xid lines in the node's kernel log; if it repeats on that node, cordon "
                  "it and reset the device; if it follows the model, try another image",
    ),
    Signature(
        name="CommunicationFailed", where=Where.LOG,
        pattern=pattern(r"NCCL error|ncclInternalError|ncclSystemError|ncclUnhandledCudaError|"
                    r"Watchdog caught collective operation timeout"),
        seen_as="`NCCL error`, `ncclSystemError`, `Watchdog caught collective operation timeout`",
        sentence="the devices of the replica cannot speak to each other",
        next_step="set NCCL_DEBUG=INFO in spec.engine.env and read the log: peer access switched "
                  "off in a virtual machine (NCCL_P2P_DISABLE=1 helps) or /dev/shm too small are "
                  "usual",
    ),
    Signature(
        name="DeviceMemoryExhausted", where=Where.LOG,
        pattern=pattern(r"CUDA out of memory\. Tried to allocate (?P<asked>[\d.]+ [KMG]iB)"
                    r"(?:.*?total capacity of (?P<total>[\d.]+ [KMG]iB))?"
                    r"(?:.*?of which (?P<free>[\d.]+ [KMG]iB) is free)?|"
                    r"CUDA out of memory|CUDA error: out of memory|HIP out of memory|"
                    r"OutOfMemoryError(?!: CUDA out)|cudaMalloc failed: out of memory"),
        seen_as="`torch.OutOfMemoryError: CUDA out of memory. Tried to allocate X`",
        sentence="the device's memory ran out[[: the engine asked for {asked} more]]"
                 "[[, {free} of {total} were free]]",
        next_step="nvidia-smi on the node shows whether another process holds memory there; if "
                  "not, "
                  f"lower {_CONTEXT} or spec.memory.concurrency on a shared device, "
                  "spec.engine.maxBatchedTokens or spec.engine.maxSequences on a whole one (its KV "
                  "cache takes what is left), or place the model on larger devices",
    ),
    Signature(
        name="ParallelSizeRefused", where=Where.LOG,
        pattern=pattern(r"World size \(\d+\) is larger than the number of available GPUs|"
                    r"tensor parallel size \(\d+\) exceeds the number of visible|"
                    r"must be divisible by (?:the )?tensor[_ ]parallel[_ ]size|"
                    r"(?:is not|must be) divisible by (?:tp_size|tp size)"),
        seen_as="`World size (N) is larger than the number of available GPUs`, `must be divisible "
                "by tensor parallel size`",
        sentence="the model cannot be split over so many devices, or the container sees fewer",
        next_step="set spec.parallelism.tensorParallelSize to a number that divides the model's "
                  "heads; where devices are missing, look at the node's device plugin",
    ),
    Signature(
        name="PortTaken", where=Where.LOG,
        pattern=pattern(r"address already in use|couldn't bind HTTP server socket"),
        seen_as="`[Errno 98] … address already in use`, `couldn't bind HTTP server socket`",
        sentence="another process listens on the engine's port",
        next_step="take the other server out of spec.template, or give it another port: the "
                  "containers of a pod share its address, and the engine listens on port 8000",
    ),
    Signature(
        name="CacheDiskFull", where=Where.LOG,
        pattern=pattern(r"No space left on device|Not enough free disk space"),
        seen_as="`No space left on device`, `Not enough free disk space`",
        sentence="the disk that the weights are written to is full",
        next_step="give it more room (a larger volume, or ephemeral-storage in spec.template)",
    ),
    Signature(
        name="CacheNotWritable", where=Where.LOG,
        pattern=pattern(r"PermissionError: \[Errno 13\][^'\n]*'?(?P<path>[^'\n]*)|"
                    r"Read-only file system"),
        seen_as="`PermissionError: [Errno 13]`, `Read-only file system`",
        sentence="the engine may not write where it keeps the weights",
        next_step="set fsGroup in the securityContext of spec.template for a volume claim; for a "
                  "read-only volume that has the weights, HF_HUB_OFFLINE=1 in spec.engine.env",
    ),
    Signature(
        name="HostMemoryExhausted", where=Where.LOG,
        pattern=pattern(r"std::bad_alloc|Cannot allocate memory|\bMemoryError\b|"
                    r"DefaultCPUAllocator: can't allocate memory"),
        seen_as="`std::bad_alloc`, `Cannot allocate memory`, `MemoryError`",
        sentence="the engine got no more host memory (not HBM)",
        next_step="raise resources.limits.memory in spec.template, or take a node with more memory",
    ),
    Signature(
        name="FlagUnknown", where=Where.LOG,
        pattern=pattern(r"unrecognized arguments: (?P<flag>[^\n]+)|error: no such option: "
                    r"(?P<option>\S+)|error: invalid argument: (?P<llama>\S+)"),
        seen_as="exit code 2, `unrecognized arguments: --x`; llama.cpp: `error: invalid argument: "
                "--x`",
        sentence="this version of the engine has no such flag[[: {flag}]][[: {option}]][[: "
                 "{llama}]]",
        next_step="take it out of spec.engine.args, or name the version that has it in "
                  "spec.engine.image; a flag of memroute's own needs a newer engine",
    ),
    Signature(
        name="FlagValueRefused", where=Where.LOG,
        pattern=pattern(r"error: argument (?P<flag>\S+): (?P<why>[^\n]+)|"
                    r"error while handling argument \"(?P<llama>[^\"]+)\": (?P<said>[^\n]+)"),
        seen_as="exit code 2, `error: argument --x: invalid …`; llama.cpp: `error while handling "
                'argument "-x"`',
        sentence="the engine does not take the value of a flag[[ ({flag}: {why})]][[ ({llama}: "
                 "{said})]]",
        next_step="correct it in spec.engine.args",
    ),
    Signature(
        name="ModuleMissing", where=Where.LOG,
        pattern=pattern(r"ModuleNotFoundError: No module named '(?P<module>[^']+)'|"
                    r"ImportError: (?P<why>[^\n]+)"),
        seen_as="`ModuleNotFoundError: No module named 'x'`, `ImportError`",
        sentence="the image lacks a part that the engine needs for this[[ ({module})]]",
        next_step="name an image in spec.engine.image that has it: the engine's own, of the "
                  "version that you mean",
    ),
)  # fmt: skip

SYMPTOMS: Final = (
    Signature(
        name="EngineCoreFailed", where=Where.LOG,
        pattern=pattern(r"EngineDeadError|Engine core initialization failed|EngineCore failed to "
                        r"start|"
                    r"EngineCore died|Received sigquit from a child process"),
        seen_as="`Engine core initialization failed. See root cause above.`, `Received sigquit "
                "from "
                "a child process`",
        sentence="a process of the engine has died; the lines that say why are above the last ones",
        next_step="read the first exception of kubectl logs --previous",
    ),
)  # fmt: skip
