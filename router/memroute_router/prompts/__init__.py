"""What a prompt's tokens are, and which replicas have them cached.

``tokenizer`` makes the ids that the engine will make; ``kv_events`` hears from replicas which
blocks of ids they have. Both are optional: without, tokens are estimated and prefixes guessed.
"""
