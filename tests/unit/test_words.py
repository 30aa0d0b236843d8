"""The words of the API's enumerations: today's, and those that 0.1 has stored."""

import pytest
import yaml

from memroute_kube.memory_words import (
    ENGINE_TYPES,
    EXECUTIONS,
    KV_CACHE_DTYPES,
    PLACEMENT_MODES,
    PLACEMENT_STRATEGIES,
    QUANTIZATIONS,
)
from memroute_router.discovery.words import ADMISSION_MODES, OVERLOAD_OBJECTIVES

ALL = (
    ENGINE_TYPES, EXECUTIONS, KV_CACHE_DTYPES, PLACEMENT_MODES, PLACEMENT_STRATEGIES,
    QUANTIZATIONS, ADMISSION_MODES, OVERLOAD_OBJECTIVES,
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "old", "today"),
    [
        (ENGINE_TYPES, "vllm", "VLLM"),
        (QUANTIZATIONS, "none", "Auto"),
        (QUANTIZATIONS, "fp8", "FP8"),
        (KV_CACHE_DTYPES, "auto", "Auto"),
        (PLACEMENT_MODES, "shared", "Shared"),
        (PLACEMENT_STRATEGIES, "spread", "Spread"),
        (ADMISSION_MODES, "off", "Disabled"),
        (OVERLOAD_OBJECTIVES, "sizes", "Sizes"),
    ],
)
def test_what_0_1_has_stored_means_what_it_meant(words, old, today):
    """An upgrade must not make objects unreadable that nobody has touched."""
    assert words.read(old) == words.read(today)
    assert words.today(old) == today


@pytest.mark.parametrize("word", ["SHARED", "sHared", "", None, 1, False, [], "maybe"])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(ValueError, match="is not known: Exclusive, Shared are"):
        PLACEMENT_MODES.read(word)
    assert PLACEMENT_MODES.meaning(word) is None


def test_yaml_reads_every_word_as_a_text():
    """``admission: off`` was false, and refused as no text."""
    for words in ALL:
        for word in words.meanings:
            assert yaml.safe_load(word) == word


def test_words_lead_there_and_back():
    for words in ALL:
        for word, meaning in words.meanings.items():
            assert words.word(meaning) == word
        assert words.default in words.meanings
        assert words.word(object()) is None
