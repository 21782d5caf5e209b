"""The operator: makes the pods of FederatedTrainingJobs. What may import what is held by contracts in pyproject.toml.

::

    watch       kopf: watches, and tells the controller
    controller  the cache wakes jobs; each is reconciled alone, again after a failure
    decide      pure: what to do about a job, from what there is
    children    pure: the objects that a job consists of
    cluster     I/O: the API server, what it told, what was asked of aggregators
    http        metrics and probes
    metrics     the operator's own metrics
    settings    what the chart tells it, by environment variables
    job_defaults  what the chart gives the pods of all jobs
    errors      the tree of its errors
    main        ``photon-operator``
    entry       the entry point: nothing heavy is imported before it
    network_settings  what the chart says of the network of job pods
"""
