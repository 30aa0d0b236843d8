"""Which policy serves most within its latency targets? Studies in virtual time, and over HTTP."""
