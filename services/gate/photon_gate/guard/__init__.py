"""What may cross, decided before it does: tasks, parts, updates, evaluations and reports.

::

    memory    what was seen and signed before, on the disk: rounds and commits never go back
    reveal    what the hub may see of a worker's reports
    standing  where this institution stands now, for status, metrics and the end
    witness   the log of the hub's door: it only grows, and this institution signs what it saw
    border    each request of the worker: decided, then passed to the hub and back
"""
