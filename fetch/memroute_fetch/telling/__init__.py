"""How far a fetch is, and how it ended: for those who wait, the kubelet, the log."""
