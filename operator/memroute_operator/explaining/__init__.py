"""Why a model is where it is, why it is not elsewhere, and what would help.

For ``memroute top`` and ``memroute explain``: the operator's own reading (``gather``) and planner
(``plan_step``) on a picture of the cluster. What is suggested has been tried: the change was made
in the picture, and the same planner then placed one replica more.
"""

from memroute_operator.explaining.model import ModelExplanation, explain_model
from memroute_operator.explaining.picture import Picture
from memroute_operator.explaining.remedies import Remedy

__all__ = ["ModelExplanation", "Picture", "Remedy", "explain_model"]
