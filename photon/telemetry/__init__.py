"""What people and machines observe of a job.

::

    logging       one log format for all programs
    metric_names  every Prometheus metric and its meaning
    traces        OpenTelemetry spans of rounds
    trackers      TensorBoard and Weights & Biases
"""
