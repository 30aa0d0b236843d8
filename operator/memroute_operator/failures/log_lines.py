"""The engine's last lines, in the order in which they are looked for.

A cause stands before its symptoms: the first that matches counts, so lines that only say that
something has failed are last.
"""

from typing import Final

from memroute_operator.failures.engine_lines import SGLANG_LINES, VLLM_LINES
from memroute_operator.failures.hub_lines import HUB_LINES
from memroute_operator.failures.llama_cpp_lines import LLAMA_CPP_LINES, LLAMA_CPP_SYMPTOMS
from memroute_operator.failures.machine_lines import MACHINE_LINES, SYMPTOMS

LOG: Final = (
    *VLLM_LINES, *SGLANG_LINES, *LLAMA_CPP_LINES, *HUB_LINES, *MACHINE_LINES,
    *LLAMA_CPP_SYMPTOMS, *SYMPTOMS,
)  # fmt: skip
