"""Inference engines, a file each, behind one seam (``seam.Engine``), and what they take as flags.

A new engine is a file here, a line in ``registry``, its rules of memory in
``memroute.footprint.runtimes``, its word in ``memroute_kube.memory_words``, and its lines in
``memroute_operator.failures.log_lines``.
"""
