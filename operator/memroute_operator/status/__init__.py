"""What is told: status, conditions and Events of ModelDeployments."""
