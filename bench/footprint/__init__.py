"""How true are the footprints? Against vLLM's own numbers, published sizes and start logs."""
