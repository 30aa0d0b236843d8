"""Why a router did what with requests: ``memroute decisions``."""
