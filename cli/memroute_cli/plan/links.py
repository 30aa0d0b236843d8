"""What the rates of a plan assume of what joins devices, in words."""

from collections.abc import Iterator, Sequence

from memroute.bandwidth import LinkSource
from memroute.sizing import Option

LINK_WORDS = {
    LinkSource.MEASURED: "as measured",
    LinkSource.NAMED: "as given",
    LinkSource.CARD: "the card's own",
    LinkSource.UNKNOWN: "assumed; say it with --link, or on the node: memroute.dev/device-link",
}


def link_notes(options: Sequence[Option]) -> Iterator[str]:
    """What rates of several devices assume of what joins them, each accelerator once."""
    told: set[str] = set()
    for option in options:
        rate, name = option.throughput, option.accelerator.name
        if rate is None or rate.link is None or name in told:
            continue
        told.add(name)
        known = LINK_WORDS[rate.link.source]
        fast, slow = rate.step_seconds_range
        low, high = rate.num_sequences / slow, rate.num_sequences / fast
        yield (
            f"{option.num_devices} {name} are joined by {rate.link.name} ({known}): between "
            f"{low:,.0f} and {high:,.0f} tokens/s."
        )
