"""How real engines end when they fail: their last lines and their exit code, word by word.

``--simulator-ending NAME`` ends a simulated engine so. Lines are from the sources and public logs
of vLLM 0.33, SGLang 0.5.23, llama.cpp b11434, torch 2.13, transformers 5.24, huggingface_hub 2.4
and NVIDIA's libraries, shortened to what a terminated container's message still has of them.
"""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One way to end."""

    engine: str
    """Whose it is: vllm, sglang, llama-cpp; any where all have it from the same library."""
    lines: str
    exit_code: int = 1
    """Above 128: ended by that signal less 128."""

    def play(self) -> int:
        """Write the lines and end so; the exit status where no signal ends it before."""
        print(self.lines, file=sys.stderr, flush=True)
        if self.exit_code > 128:  # noqa: PLR2004 - as a shell tells of signals
            os.kill(os.getpid(), signal.Signals(self.exit_code - 128))
        return self.exit_code


_CORE = (
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore_DP0': 1}"
)


def _vllm(line: str, exit_code: int = 1) -> Ending:
    """A line of the engine's process, and what its server says of it."""
    lines = f"(EngineCore_DP0 pid=94) ERROR 11-28 10:02:11 [core.py:946] {line}\n{_CORE}"
    return Ending(engine="vllm", lines=lines, exit_code=exit_code)


def _sglang(line: str) -> Ending:
    lines = (
        f"[2026-11-28 10:02:11 TP0] Scheduler hit an exception: {line}\n"
        "[2026-11-28 10:02:11] Received sigquit from a child process. It usually means the child "
        "failed."
    )
    return Ending(engine="sglang", lines=lines, exit_code=137)


def _llama_cpp(line: str) -> Ending:
    return Ending(
        engine="llama-cpp", lines=f"{line}\nmain: exiting due to model loading error", exit_code=1
    )


def _any(lines: str, exit_code: int = 1) -> Ending:
    return Ending(engine="any", lines=lines, exit_code=exit_code)


ENDINGS: Final[Mapping[str, Ending]] = MappingProxyType({
    # What it was given does not do.
    "vllm-context-too-long": _vllm(
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 "
        "GiB KV cache is needed, which is larger than the available KV cache memory (11.42 GiB). "
        "Based on the available memory, the estimated maximum model length is 93536. Try "
        "increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the "
        "engine."
    ),
    "vllm-device-taken": _vllm(
        "ValueError: Free memory on device cuda:0 (41.37/79.20 GiB) on startup is less than "
        "desired GPU memory utilization (0.92, 72.86 GiB). Decrease GPU memory utilization or "
        "reduce GPU memory used by other processes."
    ),
    "vllm-memory-moved": _vllm(
        "AssertionError: Error in memory profiling. Initial free memory 41.37 GiB, current free "
        "memory 60.01 GiB. This happens when other processes sharing the same container release "
        "GPU memory while vLLM is profiling during initialization."
    ),
    "vllm-no-blocks": _vllm(
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine."
    ),
    "vllm-context-beyond-model": _any(
        "pydantic_core.ValidationError: Value error, User-specified max_model_len (65536) is "
        "greater than the derived max_model_len (max_position_embeddings=40960.0 or "
        "model_max_length=None in model's config.json)."
    ),
    "vllm-quantization-mismatch": _any(
        "ValueError: Quantization method specified in the model config (awq) does not match the "
        "quantization method specified in the `quantization` argument (gptq)."
    ),
    "vllm-core-failed": Ending(engine="vllm", lines=_CORE),
    "sglang-weights-too-large": _sglang(
        "ValueError: Loaded weights leave no GPU memory for the KV cache under "
        "--mem-fraction-static=0.61. Raise --mem-fraction-static above 0.688 (minimum viable = 1 - "
        "available/pre = 0.6871). If using speculative decoding, draft weights are now counted."
    ),
    "sglang-no-room": _sglang(
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current "
        "value: mem_fraction_static=0.61"
    ),
    "sglang-unbalanced": _sglang(
        "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other "
        "processes. pre_model_load_memory=41.3, local_gpu_memory=78.6, local_gpu_memory * 0.9=70.7"
    ),
    "sglang-capture-failed": _sglang(
        "Exception: Capture cuda graph failed: CUBLAS_STATUS_ALLOC_FAILED when calling "
        "`cublasCreate(handle)`\nPossible solutions:\n1. set --mem-fraction-static to a smaller "
        "value (e.g., 0.8 or 0.7)"
    ),
    "sglang-context-beyond-model": _sglang(
        "ValueError: Warning: User-specified context_length (65536) is greater than the derived "
        "context_length (40960). This may lead to incorrect model outputs or CUDA errors."
    ),
    "sglang-child-died": Ending(
        engine="sglang", exit_code=1,
        lines="[2026-11-28 10:02:11] Received sigquit from a child process. It usually means the "
        "child failed.",
    ),
    "llama-cpp-not-a-model": _llama_cpp(
        "common_init_from_params: failed to load model from '/models/model.gguf'"
    ),
    "llama-cpp-damaged": _llama_cpp(
        "llama_model_load: error loading model: tensor 'blk.7.ffn_down.weight' data is not within "
        "the file bounds, model is corrupted or incomplete\n"
        "common_init_from_params: failed to load model from '/models/model.gguf'"
    ),
    "llama-cpp-architecture": _llama_cpp(
        "llama_model_load: error loading model: error loading model architecture: unknown model "
        "architecture: 'glm9'\n"
        "common_init_from_params: failed to load model from '/models/model.gguf'"
    ),
    "llama-cpp-cache-type": _llama_cpp(
        "llama_init_from_model: quantized V cache requires flash_attn to be enabled\n"
        "common_init_from_params: failed to create context with model '/models/model.gguf'"
    ),
    "llama-cpp-no-cache": _llama_cpp(
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 16384.00 MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv "
        "cache"
    ),
    "llama-cpp-no-host-memory": _llama_cpp(
        "llama_init_from_model: failed to initialize the context: std::bad_alloc"
    ),
    "llama-cpp-flag": Ending(engine="llama-cpp", lines="error: invalid argument: --no-mmap"),
    "llama-cpp-flag-value": Ending(
        engine="llama-cpp",
        lines='error while handling argument "-ctk": Unsupported cache type: q99\n\nusage:\n'
        "-ctk, --cache-type-k TYPE",
    ),
    "llama-cpp-port": Ending(
        engine="llama-cpp",
        lines="srv         start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8000\n"
        "main: exiting due to HTTP server error",
    ),
    # It does not get its model.
    "hub-token-invalid": _any(
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error. (Request ID: Root=1-6929)\n"
        "Invalid credentials in Authorization header"
    ),
    "hub-gated-no-token": _any(
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct.\n401 Client Error. (Request ID: "
        "Root=1-6929)\nCannot access gated repo. Access to model is restricted. You must have "
        "access to it and be authenticated to access it. Please log in."
    ),
    "hub-gated-not-let-in": _any(
        "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct.\n403 Client Error. (Request ID: "
        "Root=1-6929)\nAccess to model is restricted and you are not in the authorized list."
    ),
    "hub-no-such-model": _any(
        "OSError: Qwen/Qwen3-8X is not a local folder and is not a valid model identifier listed "
        "on 'https://huggingface.co/models'\nIf this is a private repository, make sure to pass a "
        "token having permission to this repo"
    ),
    "hub-no-such-revision": _any(
        "OSError: v7 is not a valid git identifier (branch name, tag name or commit id) that "
        "exists for this model name."
    ),
    "hub-unreachable": _any(
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't "
        "find them in the cached files.\nCheck your internet connection"
    ),
    "hub-offline": _any(
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the "
        "disk cache and outgoing traffic has been disabled."
    ),
    "hub-rate-limit": _any(
        "huggingface_hub.errors.HfHubHTTPError: 429 Too Many Requests: you have reached your "
        "'resolvers' rate limit."
    ),
    "hub-custom-code": _any(
        "ValueError: The repository acme/own-model contains custom code which must be executed to "
        "correctly load the model. Please pass the argument `trust_remote_code=True` to allow it."
    ),
    "architecture-vllm": _any(
        "ValueError: Model architectures ['GlmMoeNextForCausalLM'] are not supported for now. "
        "Supported architectures: dict_keys(['LlamaForCausalLM'])"
    ),
    "architecture-transformers": _any(
        "ValueError: The checkpoint you are trying to load has model type `glm9` but Transformers "
        "does not recognize this architecture. This could be because of an issue with the "
        "checkpoint"
    ),
    "weights-missing": _any(
        "RuntimeError: Cannot find any model weights with `/models/chat`"
    ),
    "weights-cut": _any(
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
        "file not fully covered"
    ),
    "weights-short": _any(
        "OSError: Consistency check failed: file should be of size 4976698672 but has size "
        "1048576 (model-00001-of-00004.safetensors)."
    ),
    "tokenizer-missing": _any(
        "OSError: Can't load tokenizer for '/models/chat'. If you were trying to load it from "
        "'https://huggingface.co/models', make sure you don't have a local directory with the same "
        "name."
    ),
    "config-missing": _any(
        "OSError: acme/tiny does not appear to have a file named config.json. Checkout "
        "'https://huggingface.co/acme/tiny/tree/main' for available files."
    ),
    # The machine.
    "driver-too-old": _any(
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please "
        "update your GPU driver by downloading and installing a new version"
    ),
    "driver-insufficient": _llama_cpp(
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA "
        "runtime version"
    ),
    "no-kernels": _vllm(
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
        "device"
    ),
    "no-device": _vllm("RuntimeError: No CUDA GPUs are available"),
    "no-libcuda": _any(
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"
    ),
    "no-device-type": _any(
        "RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue."
    ),
    "device-lost": _vllm("RuntimeError: CUDA error: device unavailable (GPU-7c1)"),
    "device-ecc": _vllm("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"),
    "nccl": _vllm(
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"
    ),
    "nccl-timeout": _sglang(
        "[rank1]:[E1128 10:02:11] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=1, OpType=ALLREDUCE, Timeout(ms)=600000)"
    ),
    "cuda-out-of-memory": _vllm(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total "
        "capacity of 79.20 GiB of which 1.06 GiB is free. Including non-PyTorch memory, this "
        "process has 78.10 GiB memory in use."
    ),
    "hip-out-of-memory": _any("torch.OutOfMemoryError: HIP out of memory."),
    "world-size": _any(
        "ValueError: World size (8) is larger than the number of available GPUs (2) in this node."
    ),
    "heads": _any(
        "ValueError: Total number of attention heads (14) must be divisible by tensor parallel "
        "size (4)."
    ),
    "port-taken": _any(
        "ERROR:    [Errno 98] error while attempting to bind on address ('10.4.1.7', 8000): "
        "address already in use"
    ),
    "disk-full": _any("OSError: [Errno 28] No space left on device: '/root/.cache/huggingface'"),
    "not-writable": _any("PermissionError: [Errno 13] Permission denied: '/models/.locks'"),
    "read-only": _any("OSError: [Errno 30] Read-only file system: '/models/.locks'"),
    "flag-unknown": _any(
        "usage: api_server.py [-h] [--model MODEL]\n"
        "api_server.py: error: unrecognized arguments: --no-such-flag", 2,
    ),
    "flag-value": _any(
        "usage: api_server.py [-h] [--model MODEL]\napi_server.py: error: argument "
        "--kv-cache-dtype: invalid choice: 'fp7'", 2,
    ),
    "module-missing": _any("ModuleNotFoundError: No module named 'bitsandbytes'"),
    # Nothing that is known is said.
    "silent": _any("Traceback (most recent call last):\nKeyError: 'rope_theta'"),
    "silent-usage": _any("usage: serve [-h]", 2),
    "killed": _any("INFO loading weights", 137),
    "terminated": _any("INFO shutting down", 143),
    "ended": _any("INFO bye", 0),
    "segmentation-fault": _any("INFO capturing graphs", 139),
    "aborted": _any("terminate called without an active exception", 134),
    "bus-error": _any("INFO starting workers", 135),
    "illegal-instruction": _any("INFO starting", 132),
    "not-found": _any("sh: 1: vllm: not found", 127),
})  # fmt: skip
