"""What a person types: each command is a thin shell around a module.

::

    main          the commands and their options
    status        ``photon status``
    retry         ``photon retry``
    rollback      ``photon rollback``
    audit         ``photon audit``
    places        where a job's bucket is
    check         ``photon validate``: what the worker checks of a model
    check_store   ``photon check-store``
    joining       ``photon check``: an invitation to a job of another institution
    institutions  the commands of jobs that cross institutions, and their options
    identity      ``photon identity``
    invite        ``photon invite``: the file that an institution is sent
    membership    ``photon admit``, ``revoke`` and ``participants``
    advice        ``photon validate``: settings that are valid and known to end badly
    describe      ``photon validate``: sizes of the model, of a round and of the job
    sources       where ``photon status`` reads a status
"""
