"""What a node's devices are like, measured on them: links to the host, memory, two at once.

``python -m bench.device`` on a machine with an NVIDIA driver, in under eight minutes, with nothing
but Python: it talks to ``libcuda.so.1`` itself. ``driver`` is that library, ``parts`` what is
measured, in which order and for how long, ``sharers`` two processes on one device, ``report`` the
table, the JSON, and what to write on a node.
"""
