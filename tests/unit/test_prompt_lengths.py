import random

import pytest

from memroute.traffic.lengths import PromptLengths
from memroute.traffic.lengths.prompt import HAN, MEASURED, NUM_KINDS, UNMEASURED, WORDS


def parts(**tokens):
    made = [0.0] * NUM_KINDS
    for kind, number in tokens.items():
        made[{"words": WORDS, "han": HAN, "image": MEASURED, "url": UNMEASURED}[kind]] = number
    return made


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
