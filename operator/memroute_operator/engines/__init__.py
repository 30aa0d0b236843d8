"""What the operator knows of engines: their flags, and which of them are its own."""
