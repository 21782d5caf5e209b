"""What worker and aggregator say to each other, and the records of a round in the bucket. Imports only photon.api.

::

    messages     requests and answers of the worker protocol
    border       requests and answers between the gate of an institution and the hub's door
    records      plans, manifests, commits and other records in the bucket
    owner        the record of whose a prefix is
    rollback     a commit that makes an earlier round the head again
    figures      perplexity, losses, the figures of a round
    replay       who took part in each round of a job that is run again
    views        what an aggregator shows of a job: events, live, history, curves
    ranges       the range of every figure that a participant reports
    canonical    records as bytes, and their digests
    cohort       who trains in a round
    termination  how a program ended
"""
