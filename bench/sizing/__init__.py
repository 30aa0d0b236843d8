"""How well the router knows what a request weighs, before any tokenizer has seen it."""
