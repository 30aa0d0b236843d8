"""Replicas as their pods tell of them: where they are, what they were promised, how they end."""
