"""How long prompts and answers are: learned from requests that have ended."""

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.lengths.prompt import PromptLengths, PromptParts

__all__ = ["OutputLengths", "PromptLengths", "PromptParts", "TokensPerEvent"]
