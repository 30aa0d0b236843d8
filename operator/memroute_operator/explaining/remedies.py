"""What would help a replica that is placed nowhere: changes that were tried on the picture.

A change is made in the objects as a person would make it (a field of the spec, a label or taint
of a node, replicas of another model), everything is read and planned anew by the operator's own
code, and only what then places a replica more is suggested. A change that the schema, the engine
or the model refuses shows as a deployment that cannot be resolved, and is no suggestion.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memroute.footprint import smaller_alternatives
from memroute.placement import Create  # noqa: F401 - placeholder
