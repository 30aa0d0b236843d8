"""Dashboards and alerts as code.

``python -m monitoring`` writes what they make: Grafana dashboards and Prometheus rules into the
chart (``helm/memroute/monitoring/``), and ``docs/reference/alerts.md``. A test compares.

| module | what it has |
| --- | --- |
| ``panels.py`` | a dashboard, its panels and queries, and how Grafana writes them |
| ``fleet.py``, ``model.py``, ``router.py``, ``operator.py`` | one dashboard each |
| ``alerts.py`` | what an alert is, its rule and its page |
| ``model_alerts.py``, ``platform_alerts.py`` | the alerts, each with its runbook |

Queries use labels of ours alone (``model_namespace``, ``model_deployment``, ``replica``,
``node_name``), and ``instance``, which every scrape gives. What several routers say of one replica
is taken once (``max by``); what each of them counts is added up (``sum by``).
"""
