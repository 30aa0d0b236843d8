"""The Lease: who may write."""
