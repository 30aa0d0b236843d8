"""How long prompts and answers turn out to be: learned from those that have ended."""

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.lengths.prompt import PromptLengths, PromptParts

__all__ = ["OutputLengths", "PromptLengths", "PromptParts", "TokensPerEvent"]
