"""Grafana dashboards as code, so that they use the metric names in photon.telemetry.metric_names.

``python -m tools.dashboards --write manifests/dashboards`` writes the files; ``--check`` compares them.
"""
