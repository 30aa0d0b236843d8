"""Two engines on one card: what is published, beside what memroute predicts."""
