"""Keeps: what is in the bucket, typed and checked.

::

    records        reads, checks and creates records; retries
    job            what stays the same for all rounds of a job
    door_log       what happened at the door: log/segments, each linked to those before
    update_layout  which parts an update has
    totals         sums over committed rounds: counters that outlive a restart
    summary        rounds/summary.json: those sums, so that a restart reads few records
    patience       blocking work, repeated until the store answers
    storage        from single failures to one state of the store
"""
