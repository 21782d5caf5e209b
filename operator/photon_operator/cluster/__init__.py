"""Talks to the API server and to aggregators, and keeps what they told.

::

    client             the requests to the API server
    apply              carries out a plan
    cache              jobs, children and pods as the watches told them
    lease              one Lease, and whether this operator holds it
    leadership         which namespaces this operator may write to
    lists              lists all of the watched namespaces, again and again
    token_secrets      the Secrets of tokens, read by name
    work_queue         which job is due when
    aggregator_status  asks aggregators for their status
    pace               how often the operator writes about one job
    memory             what is remembered for some minutes, and children that were built; may be lost
"""
