"""What all commands share: lazy imports, words, quantities, tables, outputs.

Nothing in here imports anything heavy: `memroute --help` reads it.
"""
