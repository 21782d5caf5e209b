"""A real Kubernetes on one machine: ``python -m tools.cluster``. README.md says what it needs.

::

    command        ``up``, ``down`` and ``prepare``
    launcher       a whole cluster: a control plane and nodes on which pods run
    control_plane  etcd, API server, controllers and scheduler
    node           a machine with containerd, kubelet and kube-proxy
    machine        one network, mount and pid namespace, held by one process
    network        addresses and links
    pki            keys, certificates and kubeconfigs
    monitoring     the Prometheus operator beside a cluster
    programs       Kubernetes' programs: found, or built from their Go modules
    fetched        helm and kubectl: found, or fetched from PyPI
    images         our images, built and given to a node
    archive        image archives that hold only what the receiver lacks
    contexts       a cluster that the user names instead
    kube           kubectl and the API of one cluster
    processes      child processes that end with their owner
"""
