"""Names that the catalogue does not have, and those of it that are near."""

from difflib import get_close_matches
from functools import lru_cache

from memroute.catalog import architecture_for_model
from memroute.errors import UnknownModelError

# Names of the catalogue that are offered for one that it does not have.
MAX_NEAR_NAMES = 3
# What hubs add to the name of a repository whose files were converted for llama.cpp.
GGUF_SUFFIX = "-GGUF"


def unknown_model(error: UnknownModelError) -> str:
    """That no catalogue has it: which names are near, and what helps where none was meant."""
    near = _near_names(error.model, error.known_models)
    hint = f"did you mean {', or '.join(near)}? Else" if near else "give"
    give = " give" if near else ""
    return (
        f"model {error.model!r:.200} is not in the catalogue of {len(error.known_models)} models; "
        f"{hint}{give} its config.json as spec.model.config"
    )


def did_you_mean(model: str) -> str:
    """The names of the catalogue that are near one that it does not have, as a question.

    Empty where none is near, and for a name that it has.
    """
    try:
        architecture_for_model(model.removesuffix(GGUF_SUFFIX))
    except UnknownModelError as error:
        near = _near_names(error.model, error.known_models)
        return f"did you mean {', or '.join(near)}?" if near else ""
    return ""


@lru_cache(maxsize=1024)
def _near_names(model: str, known: tuple[str, ...]) -> tuple[str, ...]:
    by_name = {one.rpartition("/")[2].casefold(): one for one in known}
    wanted = model.rpartition("/")[2].casefold()
    return tuple(by_name[one] for one in get_close_matches(wanted, by_name, n=MAX_NEAR_NAMES))
