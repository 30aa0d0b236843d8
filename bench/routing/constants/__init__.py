"""How much each constant of ``memroute.traffic`` matters: halved and doubled, one at a time."""
