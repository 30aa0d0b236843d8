"""Why a checkout may not be released: pure, from what ``gather`` has seen."""

from dataclasses import dataclass

from release.changelog import Section, says_something
from release.versions import SOURCE, Mention

# Files of a dirty tree that a sentence names; more are counted.
MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What is known of a checkout before anything is built."""

    version: str
    commit: str
    """The full hash of HEAD."""
    epoch: int
    """Seconds since 1970 of HEAD's commit: the time that everything made from it carries."""
    changed: tuple[str, ...]
    """Files that differ from HEAD, or that git does not know."""
    tagged: str | None
    """The commit that the version's tag names; None where there is no such tag."""
    mentions: tuple[Mention, ...]
    section: Section | None


def refusals(checkout: Checkout, *, allow_dirty: bool) -> list[str]:
    """A sentence for each reason against a release, with what to do; empty: go ahead."""
    found = []
    if checkout.changed and not allow_dirty:
        named = ", ".join(checkout.changed[:MAX_NAMED])
        more = len(checkout.changed) - MAX_NAMED
        found.append(
            f"the tree differs from its commit ({named}{f' and {more} more' if more > 0 else ''}): "
            "commit or remove that; --allow-dirty makes artifacts that are not for publishing"
        )
    if checkout.tagged is not None and checkout.tagged != checkout.commit:
        found.append(
            f"v{checkout.version} is the tag of another commit, {checkout.tagged[:12]}: check that "
            "one out to make the same artifacts again, or choose a new version (--set-version)"
        )
    found += [
        f"{mention.path}:{mention.line} says {mention.version}, and {SOURCE} {checkout.version}: "
        f"python -m release --set-version {checkout.version} writes it everywhere"
        for mention in checkout.mentions
        if mention.version != checkout.version
    ]
    if checkout.section is None:
        found.append(
            f"CHANGELOG.md has neither a section [{checkout.version}] nor [Unreleased]: write for "
            "users what is new"
        )
    elif not says_something(checkout.section):
        found.append(
            f"the section [{checkout.section.title}] of CHANGELOG.md is empty: write for users "
            "what is new"
        )
    return found
