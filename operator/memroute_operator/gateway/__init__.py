"""InferencePools for gateways: what a ModelDeployment asks for, and what gateways say of it."""
