"""Audits: whether a bucket holds what its job wrote, from the bucket alone and without trust in who wrote it.

::

    command      ``photon-aggregator audit``
    run          the audit of one job, round by round
    checks       the list of checks
    findings     what an audit says: findings, figures, verdict
    place        the bucket, read by records and by bytes
    rounds       everything that the bucket holds of one round
    chain        commits follow from one another; rollbacks return to what they name
    plans        base, cohort resampled from the seed, what rollbacks imply
    updates      manifests, their parts, closings
    shares       weights, scaling and the name of the model's folder
    models       the files of models, and the merge made again
    members      records of members, and who was left out of plans
    signatures   of commits by the hub, of updates and evaluations by members
    log          the log of the door, and the heads of it that were signed
    evaluations  evaluations, and ends that they decided
    foreign      objects that no release of Photon writes
"""
