"""Where ``photon status`` reads a job: a run's folder, an aggregator, a Kubernetes resource.

::

    base        what each source promises
    find        from what was typed to the source of the status
    aggregator  by the address of an aggregator
    kubernetes  the resource, by the user's kubeconfig
    stored_run  the files that a run has left
    joined_run  the folder of a run that joined a job of another institution
"""
