"""The traffic side: which request goes to which replica, and when.

```text
request.py   what is known of a request before an engine has seen it
lengths/     how long prompts and answers turn out to be: learned
replica/     what one replica holds, how fast it is, how fresh that is: its ledger
prefixes/    what each replica has cached of a prompt
peers/       what other routers of the same replicas say
admission/   now, later or never: the gates, the queue, replicas that hang
routing/     which replica: cost in seconds, and the published policies
dispatch/    the requests of one pool over time: the page to read first is ``dispatcher``
```

It knows nothing of the memory side (``footprint``, ``placement``, ``catalog``): a replica is what
its engine reports and what requests show.
"""
