"""How containers end: by the runtime's word, by the exit code."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, words

INIT: Final = (
    Signature(
        name="DownloaderMemoryExhausted", where=Where.INIT, reasons=words("OOMKilled"),
        seen_as="init container `OOMKilled`",
        sentence="the init container {container} that fetches the weights used more host memory "
                 "than its limit",
        next_step="raise its limits.memory, or set HF_HUB_DISABLE_XET=1 in its env: Xet buffers "
                  "take gigabytes",
    ),
    Signature(
        name="InitContainerFailed", where=Where.INIT,
        seen_as="an init container has ended with another code than 0",
        sentence="the init container {container} ended with exit code {code}",
        next_step="read its log: kubectl logs POD -c {container}",
    ),
)  # fmt: skip

ENDED: Final = (
    Signature(
        name="HostMemoryExhausted", where=Where.ENDED, reasons=words("OOMKilled"),
        seen_as="`OOMKilled`, exit code 137",
        sentence="the engine used more host memory (not HBM) than its limit and was killed",
        next_step="raise resources.limits.memory in spec.template, or the LimitRange of the "
                  "namespace that sets it; page cache does not count, pinned buffers while loading "
                  "and /dev/shm do",
    ),
    Signature(
        name="ContainerLost", where=Where.ENDED, reasons=words("ContainerStatusUnknown"),
        seen_as="`ContainerStatusUnknown`, exit code 137",
        sentence="the node lost the container (it was rebooted, or its runtime restarted)",
        next_step="nothing to do: it starts again; nothing is known to be wrong with the model",
    ),
)  # fmt: skip

EXIT: Final = (
    Signature(
        name="KilledFromOutside", where=Where.EXIT, exit_codes=frozenset({137}),
        seen_as="exit code 137, not `OOMKilled`",
        sentence="the engine was killed (SIGKILL): by kubelet after a failed probe or its grace "
                 "period, or by the kernel, which may kill one process of the container for memory",
        next_step="kubectl describe pod tells of probes; if there are none, raise "
                  "resources.limits.memory in spec.template",
    ),
    Signature(
        name="EngineEnded", where=Where.EXIT, exit_codes=frozenset({0, 130, 143}),
        seen_as="exit code 0, 130 or 143",
        sentence="the engine ended by itself or on a signal (SIGTERM)",
        next_step="nothing to do once: it starts again; if it repeats, look what ends it: kubectl "
                  "describe pod, kubectl logs --previous",
    ),
    Signature(
        name="SharedMemoryTooSmall", where=Where.EXIT, exit_codes=frozenset({135}),
        seen_as="exit code 135 (SIGBUS)",
        sentence="the engine touched memory that is not there (SIGBUS): /dev/shm is too small, or "
                 "a file that is mapped has become shorter",
        next_step="leave /dev/shm the memory volume that memroute mounts, and do not change "
                  "weights under a running engine",
    ),
    Signature(
        name="EngineCrashed", where=Where.EXIT, exit_codes=frozenset({134, 139}),
        seen_as="exit code 139 (SIGSEGV) or 134 (SIGABRT)",
        sentence="the engine crashed in native code",
        next_step="keep kubectl logs --previous; try another version in spec.engine.image, and "
                  "look for Xid lines in the node's kernel log",
    ),
    Signature(
        name="ProcessorTooOld", where=Where.EXIT, exit_codes=frozenset({132}),
        seen_as="exit code 132 (SIGILL)",
        sentence="the engine's build uses instructions that the node's processor does not have "
                 "(AVX-512, often)",
        next_step="name a build for it in spec.engine.image, or keep the model to newer nodes with "
                  "placement.nodeSelector",
    ),
    Signature(
        name="CommandNotFound", where=Where.EXIT, exit_codes=frozenset({126, 127, 128}),
        seen_as="exit code 126, 127 or 128 (`StartError`)",
        sentence="the image has not the program that it was asked to run, or may not run it",
        next_step="check that spec.engine.image is an image of spec.engine.type",
    ),
    Signature(
        name="ArgumentsRefused", where=Where.EXIT, exit_codes=frozenset({2}),
        seen_as="exit code 2",
        sentence="the engine does not take its command line",
        next_step="check spec.engine.args against kubectl logs --previous and the engine's version",
    ),
    Signature(
        name="EngineFailing", where=Where.EXIT,
        seen_as="any other exit code",
        sentence="the engine ended with exit code {code}",
        next_step="read kubectl logs --previous",
    ),
)  # fmt: skip
