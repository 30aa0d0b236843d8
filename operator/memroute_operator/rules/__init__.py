"""What administrators say of the whole cluster."""
