"""``memroute demo``: the whole product on one machine without a GPU.

A real control plane, emulated GPU nodes, operator and router as pods of that cluster from
their own manifests, three ModelDeployments, a minute of traffic, one replica killed on the
way, and a summary that says whether the job was really done.
"""
