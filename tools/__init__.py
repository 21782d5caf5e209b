"""What makes generated files, test data and a Kubernetes to test on. Not packaged; for make, tests and benchmarks.

::

    crd           the CustomResourceDefinition, from the pydantic models
    pod_fields    the fields of pod templates, from the Kubernetes client
    dashboards    Grafana dashboards, as code
    chart_values  the table of values in the chart's README
    words         wording to avoid, kept out of what people read
    demo_data     the demo's text: four institutions, from installed packages
    histories     made-up histories of long jobs
    fuzz_input    mutations of the files and documents that users give
    browser       Chromium, driven by tests and benchmarks of the page
    cluster       a real Kubernetes on one machine, its programs and our images
"""
