"""The flags that llama.cpp's server knows (b11434), and how it takes the words of a command line.

It compares each word with its list: no beginnings, no ``=``, but an underscore of a long flag is a
dash. The words that a flag takes are taken whatever they look like, so ``--alias --port`` names a
model ``--port``. A word that it does not know ends it. Pure.

Read off its own list (``llama-server --help``): names alone. ``make conformance-llama-cpp``
compares them with a server, where ``MEMROUTE_LLAMA_SERVER`` names one.
"""

from collections.abc import Iterator, Mapping, Sequence

from memroute_operator.engines.command_lines import Flag, Stray


def _words(text: str) -> frozenset[str]:
    return frozenset(f"--{word}" for word in text.split())


# No word follows.
ALONE = _words(
    """
    agent backend-sampling cache-idle-slots cache-list cache-prompt check-tensors completion-bash
    cont-batching context-shift cors-credentials cpu-moe embd-gemma-default embedding escape
    fim-qwen-1.5b-default fim-qwen-14b-spec fim-qwen-30b-default fim-qwen-3b-default
    fim-qwen-7b-default fim-qwen-7b-spec gpt-oss-120b-default gpt-oss-20b-default help ignore-eos
    jinja kv-offload kv-unified list-devices log-disable log-jsonl log-prefix log-timestamps
    lora-init-without-apply metrics mmproj-auto mmproj-offload models-autoload no-host offline
    op-offload perf prefill-assistant props reasoning-preserve repack rerank reuse-port
    skip-chat-parsing slots spec-default spec-draft-backend-sampling spec-draft-cpu-moe special
    spm-infill swa-full ui ui-mcp-proxy verbose version vision-gemma-12b-default
    vision-gemma-4b-default warmup
    """
)
# One word follows.
ONE_WORD = _words(
    """
    adaptive-decay adaptive-target alias api-key api-key-file api-prefix batch-size cache-ram
    cache-reuse cache-type-k cache-type-v chat-template chat-template-file chat-template-kwargs
    checkpoint-min-step control-vector control-vector-scaled cors-headers cors-methods cors-origins
    cpu-mask cpu-mask-batch cpu-range cpu-range-batch cpu-strict cpu-strict-batch ctx-checkpoints
    ctx-size defrag-thold device docker-repo draft draft-min dry-allowed-length dry-base
    dry-multiplier dry-penalty-last-n dry-sequence-breaker dynatemp-exp dynatemp-range
    embd-normalize fit fit-ctx fit-target flash-attn frequency-penalty gpu-layers grammar
    grammar-file hf-file hf-repo hf-token host image-max-tokens image-min-tokens json-schema
    json-schema-file keep kv-unified-per-slot lazy-mode load-mode log-colors log-file
    log-prompts-dir logit-bias lookup-cache-dynamic lookup-cache-static lora lora-scaled main-gpu
    mcp-servers-config mcp-servers-json media-path min-p mirostat mirostat-ent mirostat-lr mmproj
    mmproj-device mmproj-url model model-url models-dir models-max models-preset
    mtmd-batch-max-tokens n-cpu-ffn n-cpu-moe numa override-kv override-tensor parallel path poll
    poll-batch pooling port predict presence-penalty prio prio-batch reasoning reasoning-budget
    reasoning-budget-message reasoning-effort reasoning-format repeat-last-n repeat-penalty
    reverse-prompt rope-freq-base rope-freq-scale rope-scale rope-scaling rpc sampler-seq samplers
    seed sleep-idle-seconds slot-prompt-similarity slot-save-path spec-draft-cpu-mask
    spec-draft-cpu-mask-batch spec-draft-cpu-range spec-draft-cpu-strict spec-draft-cpu-strict-batch
    spec-draft-device spec-draft-hf spec-draft-model spec-draft-n-cpu-moe spec-draft-n-max
    spec-draft-n-min spec-draft-ngl spec-draft-override-tensor spec-draft-p-min spec-draft-p-split
    spec-draft-poll spec-draft-poll-batch spec-draft-prio spec-draft-prio-batch spec-draft-sampling
    spec-draft-threads spec-draft-threads-batch spec-draft-type-k spec-draft-type-v
    spec-ngram-map-k-min-hits spec-ngram-map-k-size-m spec-ngram-map-k-size-n
    spec-ngram-map-k4v-min-hits spec-ngram-map-k4v-size-m spec-ngram-map-k4v-size-n
    spec-ngram-min-hits spec-ngram-mod-n-match spec-ngram-mod-n-max spec-ngram-mod-n-min
    spec-ngram-simple-min-hits spec-ngram-simple-size-m spec-ngram-simple-size-n spec-ngram-size-m
    spec-ngram-size-n spec-synth-len spec-synth-rates spec-type split-mode sse-ping-interval
    ssl-cert-file ssl-key-file tags temp tensor-split threads threads-batch threads-http timeout
    tools tools-runtime top-k top-nsigma top-p typical ubatch-size ui-config ui-config-file
    verbosity video-ffmpeg-dir video-fps video-timestamp-interval xtc-probability xtc-threshold
    yarn-attn-factor yarn-beta-fast yarn-beta-slow yarn-ext-factor yarn-orig-ctx
    """
)
# Two words follow.
TWO_WORDS = _words(
    """
    control-vector-layer-range
    """
)
# Other spellings, and what each is.
ALIASES: Mapping[str, str] = {
    "--no-agent": "--agent",
    "-ag": "--agent",
    "-no-ag": "--agent",
    "-a": "--alias",
    "-bs": "--backend-sampling",
    "-b": "--batch-size",
    "--no-cache-idle-slots": "--cache-idle-slots",
    "-cl": "--cache-list",
    "--no-cache-prompt": "--cache-prompt",
    "-cram": "--cache-ram",
    "-ctk": "--cache-type-k",
    "-ctv": "--cache-type-v",
    "-cms": "--checkpoint-min-step",
    "--no-cont-batching": "--cont-batching",
    "-cb": "--cont-batching",
    "-nocb": "--cont-batching",
    "--no-context-shift": "--context-shift",
    "--no-cors-credentials": "--cors-credentials",
    "-C": "--cpu-mask",
    "-Cb": "--cpu-mask-batch",
    "-cmoe": "--cpu-moe",
    "-Cr": "--cpu-range",
    "-Crb": "--cpu-range-batch",
    "--swa-checkpoints": "--ctx-checkpoints",
    "-ctxcp": "--ctx-checkpoints",
    "-c": "--ctx-size",
    "-dt": "--defrag-thold",
    "-dev": "--device",
    "-dr": "--docker-repo",
    "--draft-max": "--draft",
    "--draft-n": "--draft",
    "--draft-n-min": "--draft-min",
    "--embeddings": "--embedding",
    "--no-escape": "--escape",
    "-e": "--escape",
    "-fit": "--fit",
    "-fitc": "--fit-ctx",
    "-fitt": "--fit-target",
    "-fa": "--flash-attn",
    "--n-gpu-layers": "--gpu-layers",
    "-ngl": "--gpu-layers",
    "--usage": "--help",
    "-h": "--help",
    "-hff": "--hf-file",
    "-hf": "--hf-repo",
    "-hfr": "--hf-repo",
    "-hft": "--hf-token",
    "--no-jinja": "--jinja",
    "-j": "--json-schema",
    "-jf": "--json-schema-file",
    "--no-kv-offload": "--kv-offload",
    "-kvo": "--kv-offload",
    "-nkvo": "--kv-offload",
    "--no-kv-unified": "--kv-unified",
    "-kvu": "--kv-unified",
    "-no-kvu": "--kv-unified",
    "-lzm": "--lazy-mode",
    "-lm": "--load-mode",
    "--no-log-jsonl": "--log-jsonl",
    "--no-log-prefix": "--log-prefix",
    "--no-log-timestamps": "--log-timestamps",
    "-l": "--logit-bias",
    "-lcd": "--lookup-cache-dynamic",
    "-lcs": "--lookup-cache-static",
    "-mg": "--main-gpu",
    "-mm": "--mmproj",
    "--no-mmproj": "--mmproj-auto",
    "--no-mmproj-auto": "--mmproj-auto",
    "-mmdev": "--mmproj-device",
    "--no-mmproj-offload": "--mmproj-offload",
    "-mmu": "--mmproj-url",
    "-m": "--model",
    "-mu": "--model-url",
    "--no-models-autoload": "--models-autoload",
    "-ncffn": "--n-cpu-ffn",
    "-ncmoe": "--n-cpu-moe",
    "--no-op-offload": "--op-offload",
    "-ot": "--override-tensor",
    "-np": "--parallel",
    "--no-perf": "--perf",
    "--n-predict": "--predict",
    "-n": "--predict",
    "--no-prefill-assistant": "--prefill-assistant",
    "-rea": "--reasoning",
    "--no-reasoning-preserve": "--reasoning-preserve",
    "--no-repack": "--repack",
    "-nr": "--repack",
    "--reranking": "--rerank",
    "-r": "--reverse-prompt",
    "--sampling-seq": "--sampler-seq",
    "-s": "--seed",
    "--no-skip-chat-parsing": "--skip-chat-parsing",
    "-sps": "--slot-prompt-similarity",
    "--no-slots": "--slots",
    "--no-spec-draft-backend-sampling": "--spec-draft-backend-sampling",
    "--cpu-mask-draft": "--spec-draft-cpu-mask",
    "-Cd": "--spec-draft-cpu-mask",
    "--cpu-mask-batch-draft": "--spec-draft-cpu-mask-batch",
    "-Cbd": "--spec-draft-cpu-mask-batch",
    "--cpu-moe-draft": "--spec-draft-cpu-moe",
    "-cmoed": "--spec-draft-cpu-moe",
    "--cpu-range-draft": "--spec-draft-cpu-range",
    "-Crd": "--spec-draft-cpu-range",
    "--cpu-strict-draft": "--spec-draft-cpu-strict",
    "--cpu-strict-batch-draft": "--spec-draft-cpu-strict-batch",
    "--device-draft": "--spec-draft-device",
    "-devd": "--spec-draft-device",
    "--hf-repo-draft": "--spec-draft-hf",
    "-hfd": "--spec-draft-hf",
    "-hfrd": "--spec-draft-hf",
    "--model-draft": "--spec-draft-model",
    "-md": "--spec-draft-model",
    "--n-cpu-moe-draft": "--spec-draft-n-cpu-moe",
    "--spec-draft-ncmoe": "--spec-draft-n-cpu-moe",
    "-ncmoed": "--spec-draft-n-cpu-moe",
    "--gpu-layers-draft": "--spec-draft-ngl",
    "--n-gpu-layers-draft": "--spec-draft-ngl",
    "-ngld": "--spec-draft-ngl",
    "--override-tensor-draft": "--spec-draft-override-tensor",
    "-otd": "--spec-draft-override-tensor",
    "--draft-p-min": "--spec-draft-p-min",
    "--draft-p-split": "--spec-draft-p-split",
    "--poll-draft": "--spec-draft-poll",
    "--poll-batch-draft": "--spec-draft-poll-batch",
    "--prio-draft": "--spec-draft-prio",
    "--prio-batch-draft": "--spec-draft-prio-batch",
    "--threads-draft": "--spec-draft-threads",
    "-td": "--spec-draft-threads",
    "--threads-batch-draft": "--spec-draft-threads-batch",
    "-tbd": "--spec-draft-threads-batch",
    "--cache-type-k-draft": "--spec-draft-type-k",
    "-ctkd": "--spec-draft-type-k",
    "--cache-type-v-draft": "--spec-draft-type-v",
    "-ctvd": "--spec-draft-type-v",
    "-sp": "--special",
    "-sm": "--split-mode",
    "--temperature": "--temp",
    "-ts": "--tensor-split",
    "-t": "--threads",
    "-tb": "--threads-batch",
    "-to": "--timeout",
    "--top-n-sigma": "--top-nsigma",
    "--typical-p": "--typical",
    "-ub": "--ubatch-size",
    "--no-ui": "--ui",
    "--no-webui": "--ui",
    "--webui": "--ui",
    "--webui-config": "--ui-config",
    "--webui-config-file": "--ui-config-file",
    "--no-ui-mcp-proxy": "--ui-mcp-proxy",
    "--no-webui-mcp-proxy": "--ui-mcp-proxy",
    "--webui-mcp-proxy": "--ui-mcp-proxy",
    "--log-verbose": "--verbose",
    "-v": "--verbose",
    "--log-verbosity": "--verbosity",
    "-lv": "--verbosity",
    "--no-warmup": "--warmup",
}
_NAMES = {name: name for name in sorted(ALONE | ONE_WORD | TWO_WORDS)}
# Every spelling → the flag's name.
SPELLINGS: Mapping[str, str] = _NAMES | dict(ALIASES)


def parse_arguments(words: Sequence[str]) -> list[Flag | Stray]:
    """The flags of a command line, in their order."""
    return list(_parse(words))


def _parse(words: Sequence[str]) -> Iterator[Flag | Stray]:
    position = 0
    while position < len(words):
        written, at = words[position], position
        position += 1
        spelled = written.replace("_", "-") if written.startswith("--") else written
        name = SPELLINGS.get(spelled)
        is_joined = name is None and spelled.partition("=")[0] in SPELLINGS
        if is_joined or not spelled.startswith("-"):
            yield Stray(position=at, written=written)
            continue
        if name is None:
            # A newer server may know it: it takes what does not look like a flag.
            end = position
            while end < len(words) and not words[end].startswith("-"):
                end += 1
        else:
            end = min(len(words), position + _num_words(name))
        yield Flag(
            name=name or spelled,
            values=tuple(words[position:end]),
            is_negated=spelled.startswith(("--no-", "-no", "-nkvo", "-nr")) and name != spelled,
            position=at,
            written=written,
        )
        position = end


def _num_words(name: str) -> int:
    if name in TWO_WORDS:
        return 2
    return 1 if name in ONE_WORD else 0
