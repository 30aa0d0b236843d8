"""What a release of memroute consists of, made the same bytes by everybody: ``python -m release``.

``gather`` (what the checkout says) → ``refusals`` (may this be released?) → ``artifacts`` (made
twice in different surroundings, then compared). Nothing is published: that is a person's decision
(CONTRIBUTING.md, docs/adr/0047-releases-are-the-same-bytes.md).
"""
