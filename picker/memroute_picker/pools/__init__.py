"""The pods of an InferencePool, whoever has deployed them, as the router's replicas."""
