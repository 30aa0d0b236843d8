"""Who may ask, for what, and how much: keys, tenants, quotas.

```text
fields ── credentials ──► key ── verdicts ──► Grant, or 401        before anything is parsed
model ──────────────────────────── Grant ───► 403                  before a pool is looked up
tokens ── quotas ────────────────────────────► Permit, or 429      before admission is asked
usage ─────────────────────────── Permit ───► settled              when the request ends
```

| what | where |
| --- | --- |
| what the file says, as values | ``rules``, ``keyfile``, ``document`` |
| may this request? (pure: facts in, verdict with its reason out) | ``verdicts``, ``windows`` |
| what tenants have used in the last minute, and have under way | ``quotas`` |
| who waits for its tenant's share of KV tokens | ``share_line`` |
| from where engines may be told to fetch | ``media_hosts`` |
| the refusals, in the words of OpenAI's API | ``words`` |
| files that are read again when they change | ``memroute_router.watched`` |
| JSON Web Tokens | ``tokens`` |
| one object for the router to ask | ``gate`` |
| asking engines for the usage of a stream, and taking it out again | ``usage_asked`` |
| tenants that are told apart by words that nobody has checked | ``newcomers`` |
| whose word on a request's way is believed | ``proxies`` |

Without ``--keys`` nothing of this is asked.
"""
