"""ModelDeployments as planning reads them: what they ask for, resolved."""
