"""The institution's own side: the worker protocol, unchanged, and what people and Prometheus read here.

::

    app      routes; every failed request has the worker protocol's form
    bounds   who may ask, and how much: tokens, sizes, deadlines
    status   JobStatus of this institution
    metrics  the aggregator's names where they apply, and the gate's own
    server   serves in a thread, between start and close
"""
