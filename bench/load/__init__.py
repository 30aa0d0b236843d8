"""An open-loop load generator: the schedule is fixed before the first byte is sent.

Latency counts from when a request was *meant* to be sent, so that a slow system cannot slow
its own measurement down. The generator times itself as well, and reports nothing when it could
not keep up.
"""
