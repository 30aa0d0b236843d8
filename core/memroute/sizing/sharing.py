"""What equal replicas keep on a card that they share, by the requests on it."""

from collections.abc import Sequence

from memroute.bandwidth import CardShare, SharingMechanism, StepTime, card_share, engine_load

REQUESTS_PER_CARD = (2, 4, 8, 16, 32)
"""Those of the published table (``memroute.bandwidth.sharing``)."""


def card_shares(
    law: StepTime,
    *,
    num_engines: int,
    prompt_tokens: int,
    output_tokens: int,
    max_num_batched_tokens: int,
    requests_per_card: Sequence[int] = REQUESTS_PER_CARD,
) -> tuple[CardShare, ...]:
    """By mechanism and load, what so many engines of one model make together on one card.

    Loads of fewer requests than engines are left out: an engine without work takes nothing.
    """
    loads = {
        count: engine_load(
            law,
            num_requests=count,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            max_num_batched_tokens=max_num_batched_tokens,
        )
        for total in requests_per_card
        for count in (total, max(1, total // num_engines))
    }
    return tuple(
        card_share(
            loads.__getitem__,
            num_engines=num_engines,
            requests_per_card=total,
            mechanism=mechanism,
        )
        for mechanism in SharingMechanism
        for total in requests_per_card
        if total >= num_engines
    )
