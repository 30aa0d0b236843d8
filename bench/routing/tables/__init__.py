"""The tables of the studies, by what is asked; ``report`` says which study prints which."""
