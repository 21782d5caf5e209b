"""The job document: one schema for a laptop, a cluster and several clusters.

::

    job            FederatedTrainingJob
    model          ``spec.model``
    training       ``spec.local``, ``spec.outer``, ``spec.exchange``
    participation  ``spec.participation``, ``spec.stop``, ``spec.evaluation``
    placement      ``spec.storage``, ``spec.aggregator``, ``spec.participants``
    join           ``spec.join`` and ``participants[].remote``: jobs of other institutions; not in the CRD yet
    access         what the hub's administrator decided about participants from elsewhere: access.json
    invitation     the file with which an institution is invited
    status         ``status``
    learning       what of a job shapes learning: job.json
    presets        models by name
    document       a job file as data, with the line of every field
    validate       from a job file to a job, every mistake at once
    pod_fields     whether a patch of a pod template has the form of one
    reading        small files that people write, read within a bound
    text           text that others wrote, made fit to be shown
    base           what all models of the document share
"""
