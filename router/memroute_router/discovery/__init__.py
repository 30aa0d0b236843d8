"""Which models and replicas there are: read at the API server, or in a file; read with doubt."""
