"""Models by their Hugging Face name.

Shapes are those of the published ``config.json`` files. Their parameter counts, by the
closed formula of ``memroute.footprint.weights``, equal transformers' own count; the tests
hold the numbers.
"""

from memroute.errors import UnknownModelError
from memroute.footprint.architecture import ModelArchitecture

LLAMA_3_1_8B = ModelArchitecture(
    family="llama",
    num_layers=32,
    hidden_size=4096,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    max_context_tokens=131072,
)
LLAMA_3_1_70B = ModelArchitecture(
    family="llama",
    num_layers=80,
    hidden_size=8192,
    num_attention_heads=64,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=28672,
    vocab_size=128256,
    max_context_tokens=131072,
)
LLAMA_3_2_1B = ModelArchitecture(
    family="llama",
    num_layers=16,
    hidden_size=2048,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=64,
    intermediate_size=8192,
    vocab_size=128256,
    max_context_tokens=131072,
    tied_embeddings=True,
)
MISTRAL_7B_V0_3 = ModelArchitecture(
    family="mistral",
    num_layers=32,
    hidden_size=4096,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=32768,
    max_context_tokens=32768,
)
QWEN2_5_0_5B = ModelArchitecture(
    family="qwen2",
    num_layers=24,
    hidden_size=896,
    num_attention_heads=14,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=4864,
    vocab_size=151936,
    max_context_tokens=32768,
    tied_embeddings=True,
)
QWEN2_5_7B = ModelArchitecture(
    family="qwen2",
    num_layers=28,
    hidden_size=3584,
    num_attention_heads=28,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=18944,
    vocab_size=152064,
    max_context_tokens=32768,
)
QWEN2_5_32B = ModelArchitecture(
    family="qwen2",
    num_layers=64,
    hidden_size=5120,
    num_attention_heads=40,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=27648,
    vocab_size=152064,
    max_context_tokens=32768,
)
QWEN3_0_6B = ModelArchitecture(
    family="qwen3",
    num_layers=28,
    hidden_size=1024,
    num_attention_heads=16,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=3072,
    vocab_size=151936,
    max_context_tokens=40960,
    tied_embeddings=True,
)
QWEN3_8B = ModelArchitecture(
    family="qwen3",
    num_layers=36,
    hidden_size=4096,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=12288,
    vocab_size=151936,
    max_context_tokens=40960,
)
QWEN3_32B = ModelArchitecture(
    family="qwen3",
    num_layers=64,
    hidden_size=5120,
    num_attention_heads=64,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=25600,
    vocab_size=151936,
    max_context_tokens=40960,
)

MODELS: dict[str, ModelArchitecture] = {
    "meta-llama/Llama-3.1-8B": LLAMA_3_1_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3_1_8B,
    "meta-llama/Llama-3.1-70B": LLAMA_3_1_70B,
    "meta-llama/Llama-3.1-70B-Instruct": LLAMA_3_1_70B,
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA_3_1_70B,
    "meta-llama/Llama-3.2-1B": LLAMA_3_2_1B,
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA_3_2_1B,
    "mistralai/Mistral-7B-v0.3": MISTRAL_7B_V0_3,
    "mistralai/Mistral-7B-Instruct-v0.3": MISTRAL_7B_V0_3,
    "Qwen/Qwen2.5-0.5B-Instruct": QWEN2_5_0_5B,
    "Qwen/Qwen2.5-7B-Instruct": QWEN2_5_7B,
    "Qwen/Qwen2.5-32B-Instruct": QWEN2_5_32B,
    "Qwen/Qwen3-0.6B": QWEN3_0_6B,
    "Qwen/Qwen3-8B": QWEN3_8B,
    "Qwen/Qwen3-32B": QWEN3_32B,
}


def architecture_for_model(model: str) -> ModelArchitecture:
    """The architecture of a model by its Hugging Face name, in any case.

    Raises ``UnknownModelError`` with the names that are known.
    """
    wanted = model.casefold()
    for name, architecture in MODELS.items():
        if name.casefold() == wanted:
            return architecture
    raise UnknownModelError(model, tuple(sorted(MODELS)))
