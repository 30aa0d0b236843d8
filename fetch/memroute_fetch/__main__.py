"""``python -m memroute_fetch`` is ``memroute-fetch``."""

from memroute_fetch.program import main

main()
