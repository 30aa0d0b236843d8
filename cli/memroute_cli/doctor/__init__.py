"""Whether an installation works: ``memroute doctor``.

```text
gathering.py   asks the API server, and a router where a test request is wanted  -> Facts
checks/*.py    pure: Facts -> Findings, a file per kind of check
report.py      Findings -> a table or a document
```

What may not be read is a fact too (``Unread``): its check says *unknown*, and which right is
missing.
"""
