"""How far a fetch is, and how it ended: for those who wait, for HTTP, for the kubelet, for the log."""
