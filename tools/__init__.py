"""What makes generated files, and a Kubernetes to test on. Not packaged; used by make, tests and benchmarks.

::

    crd           the CustomResourceDefinition, from the pydantic models
    dashboards    Grafana dashboards, as code
    chart_values  the table of values in the chart's README
    words         words that foreign English brings back, kept out
    cluster       a real Kubernetes on one machine, its programs and our images
"""
