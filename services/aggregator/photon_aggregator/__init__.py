"""The aggregator: runs the rounds of one job. What may import what is held by contracts in pyproject.toml.

::

    rounds     decides: the round as a pure state machine; no I/O, threads, clock or randomness
    actions    does: what the machine asks for, one file an action; blocking, safe to repeat
    bucket     keeps: typed records in object storage, and what a job is once its bucket was read
    merge      computes: updates, model and outer state in, the next model out; numpy only
    audit      verifies: from the bucket alone, that a job is what its records say
    reporting  shows: status, metrics, curves, logs; reads state and books, decides nothing
    http       speaks: routes, authentication, limits, the page
    engine     the loop that joins them: an event in, actions done (ACTIONS), waiting requests woken
    options    what programs and tests set differently for an engine
    replay     the membership of another job, to run it again with the same participants
    bell       which waiting requests a change of state wakes
    tracking   the job in TensorBoard or W&B, read from its commits
    main       options and exit codes of ``photon-aggregator``
    entry      the entry point: nothing heavy is imported before it
    blas       one set of BLAS kernels on all machines; before numpy is imported
    clock      the wall clock, and how far it was set or stood still
    executors  threads for blocking work, apart by kind
    errors     the tree of errors and exit codes
    contain    errors of what is only for people end in the log
    faults     named points at which a test may end the process
    memory     memory of ended threads is used again
    pieces     compressed text that is sent to many readers
"""

from __future__ import annotations

from photon_aggregator.blas import fix_kernels

# Here, for this is what runs before anything that imports numpy.
fix_kernels()
