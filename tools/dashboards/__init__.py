"""Grafana dashboards as code, so that their metrics are those of photon.telemetry.metric_names.

``python -m tools.dashboards --write manifests/dashboards`` makes the files; ``--check`` compares them.
"""
