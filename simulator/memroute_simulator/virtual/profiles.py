"""What a workload's request is to an engine, and what a router takes it to be before that.

An engine computes the tokens that are there. A router sees the prompt's characters, and estimates;
of cached prefixes it knows blocks of characters, and blocks of tokens where replicas tell of those.
A clairvoyant router is told both lengths.
"""

from memroute.traffic.lengths import PromptLengths
from memroute.traffic.prefixes import BlockIndex
from memroute.traffic.request import RequestProfile
from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.virtual.kv_events import Hears, told_keys
from memroute_simulator.virtual.outcome import Outcome

ASSUMED_OUTPUT_TOKENS = 256
# The default of a ModelDeployment's routing.
MAX_CHOICES = 1024
# More than a request of any mix asks for: names their answers.
GUESSED_BLOCK_TOKENS = 256
# What the router's blocks of 1,024 characters are about.
KEY_BITS = 64
KEY_MASK = (1 << KEY_BITS) - 1
# Keys of the router's prefixes have 64 bits; those of a workload's segments have more.


def engine_request(outcome: Outcome, choice: int) -> EngineRequest:
    """One of the request's choices, as the engine takes it."""
    asked = outcome.asked
    output_id = asked.output_id if not choice else -(MAX_CHOICES * asked.output_id + choice)
    return EngineRequest(
        request_id=f"{outcome.number}.{outcome.num_attempts}.{len(outcome.tried)}.{choice}",
        num_prompt_tokens=asked.num_prompt_tokens,
        num_output_tokens=asked.num_output_tokens,
        max_output_tokens=asked.max_output_tokens,
        content=SegmentedContent(asked.prompt, output_id),
        priority=asked.priority,
        arrival_seconds=outcome.sent_seconds,
        adapter=asked.adapter,
    )


class Profiles:
    """What one router takes requests to be. Owns what it has learned of prompts' lengths."""

    def __init__(
        self,
        blocks: BlockIndex,
        *,
        is_clairvoyant: bool,
        guesses_prefixes: bool,
        hears: Hears,
        tells_tenants: bool,
    ) -> None:
        """``blocks``: what replicas have told of theirs.

        ``guesses_prefixes``: whether the shipped index guesses what is cached; other policies are
        told, or do not ask.
        """
        self.prompts = PromptLengths()
        """How long prompts turn out to be, as the engines' ``usage`` says."""
        self._blocks = blocks
        self._is_clairvoyant = is_clairvoyant
        self._guesses_prefixes = guesses_prefixes
        self._hears = hears
        self._tells_tenants = tells_tenants

    def profile(self, outcome: Outcome) -> RequestProfile:
        """What the router takes the request to be: its prompt by the estimator."""
        asked, how = outcome.asked, outcome.asked_how
        allowed = asked.max_output_tokens
        assumed = ASSUMED_OUTPUT_TOKENS if allowed is None else min(allowed, ASSUMED_OUTPUT_TOKENS)
        known = how.num_choices * asked.num_output_tokens if self._is_clairvoyant else None
        estimate = asked.num_prompt_tokens
        if not self._is_clairvoyant:
            estimate = max(1, round(self.prompts.tokens(how.parts)))
        return RequestProfile(
            num_prompt_tokens=estimate,
            min_prompt_tokens=min(estimate, asked.num_prompt_tokens),
            max_output_tokens=allowed,
            assumed_output_tokens=how.num_choices * assumed,
            known_output_tokens=known,
            num_choices=how.num_choices,
            num_sequences=how.num_choices,
            is_stream=how.is_stream,
            tenant=asked.tenant if self._tells_tenants else "",
            # To vLLM smaller is served first, to memroute greater.
            priority=-asked.priority,
            prefix=_prefix(outcome) if self._guesses_prefixes else (),
            blocks=self._told_blocks(outcome) if self._guesses_prefixes else (),
            tokens_per_block=GUESSED_BLOCK_TOKENS,
        )

    def _told_blocks(self, outcome: Outcome) -> tuple[int, ...]:
        """The prompt's blocks as replicas tell of them; none where nobody hears."""
        size = self._blocks.block_tokens
        if self._hears is Hears.NOTHING or not size:
            return ()
        asked = outcome.asked
        content = SegmentedContent(asked.prompt, asked.output_id)
        return told_keys(content.keys(0, asked.num_prompt_tokens // size, size), size)


def _prefix(outcome: Outcome) -> tuple[int, ...]:
    asked = outcome.asked
    num_blocks = asked.num_prompt_tokens // GUESSED_BLOCK_TOKENS
    content = SegmentedContent(asked.prompt, asked.output_id)
    keys = content.keys(0, num_blocks, GUESSED_BLOCK_TOKENS)
    return tuple([(key ^ key >> KEY_BITS) & KEY_MASK for key in keys])
