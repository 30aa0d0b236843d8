"""The types of the conditions of a ModelDeployment."""

# Always in a status, in this order. All others are there only while they are True.
LASTING = ("Ready", "Resolved", "Named", "Placed", "Available", "Progressing")
# kstatus looks at the first two in the order of the list.
ABNORMAL = (
    "Reconciling", "Stalled", "Paused", "Degraded", "Overbooked", "OverQuota", "FootprintDrift",
    "DeviceMetricsStale", "TargetsUnmet", "TemplateOutdated", "PolicyUnknown", "AdaptersFailing",
    "GatewayNotReady",
)  # fmt: skip
