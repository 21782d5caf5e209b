"""What may cross, decided before it does. ``border`` first: it names the guard of each request of the worker.

::

    border    each request of the worker, and which guard decides it
    tasks     in: tasks, as signed, allowed and of no earlier round
    history   in: the commits that the hub signed, one history
    witness   in: the log of the hub's door: it only grows, and this institution signs what it saw
    passes    URLs of the store become addresses at the relay
    parts     out: parts of an update, bounded
    signing   out: updates and evaluations, checked and signed
    reports   out: progress, cut and seldom
    reveal    what of a report, an update, an evaluation the hub may see
    presence  out: here, away, declined; and the policy's hours
    common    what must hold before any of it: a member, a hub that answers, the round under way
    memory    what was seen and signed before, on the disk: rounds and commits never go back
    record    what was decided, in the ledger and the counts
    standing  where this institution stands now, for status, metrics and the end
"""
