import random

import pytest

from memroute.traffic.lengths import PromptLengths
from memroute.traffic.lengths.prompt import (
    ACCENTS,
    HAN,
    KANA,
    MEASURED,
    NUM_KINDS,
    UNMEASURED,
    WORDS,
)
from memroute.traffic.request import RequestProfile

KINDS = {
    "words": WORDS, "accents": ACCENTS, "han": HAN, "kana": KANA, "image": MEASURED,
    "url": UNMEASURED,
}  # fmt: skip


def parts(**tokens):
    made = [0.0] * NUM_KINDS
    for kind, number in tokens.items():
        made[KINDS[kind]] = number
    return made


def asked(keys):
    return RequestProfile(
        num_prompt_tokens=1000, min_prompt_tokens=1, max_output_tokens=1, assumed_output_tokens=1,
        prefix=keys, block_ends=tuple(range(100, 100 + len(keys))),
    )  # fmt: skip


def test_text_of_one_kind_has_the_ratio_of_two_sums():
    """1,000 tokens of prior at 1, and twenty prompts of 1,000 at 2: 41 over 21, nearly."""
    lengths = PromptLengths()
    for _ in range(20):
        lengths.observe(parts(words=1000.0), actual_tokens=2000)
    assert lengths.ratio == pytest.approx(41 / 21, rel=0.02)
    assert lengths.tokens(parts(words=100.0)) == pytest.approx(195, rel=0.02)


def test_an_image_that_was_taken_wrongly_corrects_nobodys_text():
    """Images turn out to be a quarter of what was thought: text is right, and stays so."""
    lengths, rng = PromptLengths(), random.Random(1)
    for _ in range(200):
        text, image = rng.randrange(100, 2000), rng.choice((0, 1000, 4000))
        estimate = parts(words=float(text), image=float(image))
        lengths.observe(estimate, actual_tokens=text + image // 4)
    assert lengths.ratio == pytest.approx(1.0, abs=0.03)
    assert lengths.ratios[MEASURED] == pytest.approx(0.25, abs=0.03)


def test_each_script_has_a_ratio_of_its_own():
    """A tokenizer that needs twice the tokens for Chinese needs no more for English."""
    lengths, rng = PromptLengths(), random.Random(2)
    for _ in range(300):
        words, han = rng.randrange(50, 1500), rng.choice((0, 300, 900))
        lengths.observe(parts(words=float(words), han=float(han)), actual_tokens=words + 2 * han)
    assert lengths.ratio == pytest.approx(1.0, abs=0.05)
    assert lengths.ratios[HAN] == pytest.approx(2.0, abs=0.1)


def test_what_was_learned_of_images_stays_while_none_comes():
    lengths = PromptLengths()
    for _ in range(50):
        lengths.observe(parts(words=10.0, url=1024.0), actual_tokens=10 + 256)
    learned = lengths.ratios[UNMEASURED]
    assert learned == pytest.approx(0.25, abs=0.03)
    for _ in range(2000):
        lengths.observe(parts(words=500.0), actual_tokens=500)
    assert lengths.ratios[UNMEASURED] == pytest.approx(learned, abs=0.01)


def test_nothing_that_is_observed_makes_an_estimate_absurd():
    """A proxy that reports nonsense: the ratios stay within 0.25 and 4."""
    lengths, rng = PromptLengths(), random.Random(3)
    for _ in range(500):
        estimate = parts(words=rng.random() * 1e5, han=rng.random() * 10, image=rng.random() * 1e4)
        lengths.observe(estimate, actual_tokens=rng.choice((1, 10**9)))
        assert all(0.02 <= ratio <= 50.0 for ratio in lengths.ratios)
        assert all(0.25 <= ratio <= 4.0 for ratio in lengths.ratios[:UNMEASURED])
    lengths.observe(parts(), actual_tokens=5)
    lengths.observe(parts(words=5.0), actual_tokens=0)


def test_a_kind_that_prompts_hold_little_of_is_learned_sooner():
    """German: 100 of 1,600 estimated tokens are accents, and 200 are missing. English is right.

    After 40 of each, English is 5 % too long; with a prior of 1,000 tokens for accents as for
    words it was 7 %.
    """
    lengths = PromptLengths()
    for _ in range(40):
        lengths.observe(parts(words=1000.0), actual_tokens=1000)
        lengths.observe(parts(words=1500.0, accents=100.0), actual_tokens=1800)
    assert lengths.ratio < 1.055
    assert lengths.ratios[ACCENTS] > 1.6


def test_chinese_does_not_correct_japanese():
    """A tokenizer that knows Chinese words spells Japanese syllables: half as many, and twice."""
    lengths = PromptLengths()
    for _ in range(50):
        lengths.observe(parts(han=1000.0, kana=50.0), actual_tokens=550)
        lengths.observe(parts(han=300.0, kana=700.0), actual_tokens=1550)
    assert lengths.tokens(parts(han=1000.0, kana=50.0)) == pytest.approx(550, rel=0.03)
    assert lengths.tokens(parts(han=300.0, kana=700.0)) == pytest.approx(1550, rel=0.03)


def test_what_the_kinds_do_not_explain_is_learned_of_prompts_that_begin_alike():
    """English at 1,000 for 1,000; an application of another language in the same letters at 1,200.

    The words' ratio settles between them, and the beginnings know each.
    """
    lengths = PromptLengths()
    for number in range(40):
        for application, actual in ((1, 1000), (2, 1200)):
            profile = asked((application, 100 * application + number))
            lengths.observe(parts(words=1000.0), actual_tokens=actual, asked=profile)
    of_all = lengths.tokens(parts(words=1000.0))
    assert 1050 < of_all < 1150
    assert of_all * lengths.beginnings.find((1, 9))[0] == pytest.approx(1000, rel=0.02)
    assert of_all * lengths.beginnings.find((2, 9))[0] == pytest.approx(1200, rel=0.02)
