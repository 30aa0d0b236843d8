"""What engines write when what they were given does not do: vLLM 0.33, SGLang 0.5.23."""

from typing import Final

from memroute.footprint import EngineType
from memroute_operator.failures.signature import Signature, Where, pattern

_VLLM = frozenset({EngineType.VLLM})
_SGLANG = frozenset({EngineType.SGLANG})
# The field that bounds a request.
_CONTEXT = "spec.memory.maxContextTokens"

VLLM_LINES: Final = (
    Signature(
        name="ContextTooLongForCache", where=Where.LOG, engines=_VLLM,
        pattern=pattern(r"max seq len \((?P<wanted>[\d,]+)\).*?"
                    r"maximum model length is (?P<longest>[\d,]+)"),
        seen_as="`To serve at least one request with the model's max seq len (N) … estimated "
                "maximum model length is M`",
        sentence="the KV cache that the engine could allocate does not hold one request of "
                 "{wanted} tokens",
        next_step=f"set {_CONTEXT} to {{longest}} at the most on a whole device, or take a larger "
                  "one; on a shared one raise spec.memory.concurrency by as much as {wanted} is "
                  "more than {longest}: the pool is reserved for all requests together",
    ),
    Signature(
        name="DeviceMemoryTaken", where=Where.LOG, engines=_VLLM,
        pattern=pattern(r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on "
                    r"startup is less than desired GPU memory utilization"),
        seen_as="`Free memory on device (F/T GiB) on startup is less than desired GPU memory "
                "utilization`",
        sentence="another process holds memory of the device: {free} of {total} GiB were free when "
                 "the engine started",
        next_step="end what runs there beside it (nvidia-smi on the node shows it), or set "
                  "placement.mode Shared, which counts what others hold",
    ),
    Signature(
        name="DeviceMemoryMoved", where=Where.LOG, engines=_VLLM,
        pattern=pattern(r"Error in memory profiling"),
        seen_as="`Error in memory profiling. Initial free memory …`",
        sentence="another process gave memory back while the engine measured it",
        next_step="nothing to do once: it starts again; if it repeats, something that memroute "
                  "does not know uses the device (nvidia-smi on the node)",
    ),
    Signature(
        name="NoRoomForCache", where=Where.LOG, engines=_VLLM,
        pattern=pattern(r"No available memory for the cache blocks"),
        seen_as="`No available memory for the cache blocks`",
        sentence="weights and activations left nothing of what was reserved for the KV cache",
        next_step="give the model more: a higher spec.parallelism.tensorParallelSize or a "
                  "quantization; for a family without a formula, its true "
                  "spec.model.checkpointBytes",
    ),
    Signature(
        name="ContextBeyondModel", where=Where.LOG, engines=_VLLM,
        pattern=pattern(r"User-specified max_model_len \((?P<wanted>\d+)\) is greater than the "
                        r"derived "
                    r"max_model_len(?: \(\w+=(?P<longest>[\d.]+))?"),
        seen_as="`User-specified max_model_len (N) is greater than the derived max_model_len`",
        sentence="the model was not made for {wanted} tokens[[: {longest} are the most]]",
        next_step=f"lower {_CONTEXT}",
    ),
    Signature(
        name="QuantizationMismatch", where=Where.LOG,
        pattern=pattern(r"Quantization method specified in the model config \((?P<own>[^)]+)\) "
                        r"does "
                    r"not match the quantization method specified"),
        seen_as="`Quantization method specified in the model config (x) does not match …`",
        sentence="the checkpoint is quantized as {own}, and another quantization is asked for",
        next_step="set spec.memory.quantization to Auto: the checkpoint says its own",
    ),
)  # fmt: skip

SGLANG_LINES: Final = (
    Signature(
        name="StaticMemoryTooSmall", where=Where.LOG, engines=_SGLANG,
        pattern=pattern(r"Loaded weights leave no GPU memory for the KV cache under "
                    r"--mem-fraction-static=(?P<share>[\d.]+)\. Raise --mem-fraction-static above "
                    r"(?P<least>[\d.]+)"),
        seen_as="`Loaded weights leave no GPU memory for the KV cache under "
                "--mem-fraction-static=X. Raise --mem-fraction-static above Y`",
        sentence="the weights took more than was reserved for them: a static share of {share} was "
                 "given, {least} is the least",
        next_step="set placement.mode Exclusive, where it may take what the device has, or a "
                  "higher "
                  "spec.parallelism.tensorParallelSize; for a family without a formula, its true "
                  "spec.model.checkpointBytes",
    ),
    Signature(
        name="NoRoomForCache", where=Where.LOG, engines=_SGLANG,
        pattern=pattern(r"Not enough memory\. Please try to increase --mem-fraction-static"),
        seen_as="`Not enough memory. Please try to increase --mem-fraction-static`",
        sentence="weights left nothing of what was reserved for the KV cache",
        next_step="give the model more: a higher spec.parallelism.tensorParallelSize or a "
                  "quantization; for a family without a formula, its true "
                  "spec.model.checkpointBytes",
    ),
    Signature(
        name="DeviceMemoryTaken", where=Where.LOG, engines=_SGLANG,
        pattern=pattern(r"The memory capacity is unbalanced"),
        seen_as="`The memory capacity is unbalanced. Some GPUs may be occupied by other "
                "processes.`",
        sentence="another process holds memory of one of the replica's devices",
        next_step="end what runs there beside it (nvidia-smi on the node shows it), or set "
                  "placement.mode Shared, which counts what others hold",
    ),
    Signature(
        name="GraphCaptureFailed", where=Where.LOG, engines=_SGLANG,
        pattern=pattern(r"Capture cuda graph failed: (?P<why>[^\n]*)"),
        seen_as="`Capture cuda graph failed: …`",
        sentence="the engine could not capture its CUDA graphs[[: {why}]]",
        next_step="set spec.engine.execution to Eager; where it says out of memory, a lower "
                  "spec.engine.maxSequences captures smaller graphs",
    ),
    Signature(
        name="ContextBeyondModel", where=Where.LOG, engines=_SGLANG,
        pattern=pattern(r"context_length \((?P<wanted>\d+)\) is greater than the derived "
                    r"context_length(?: \((?P<longest>\d+)\))?"),
        seen_as="`context_length (N) is greater than the derived context_length`",
        sentence="the model was not made for {wanted} tokens[[: {longest} are the most]]",
        next_step=f"lower {_CONTEXT}",
    ),
)  # fmt: skip
