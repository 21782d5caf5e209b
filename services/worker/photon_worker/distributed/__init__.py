"""A participant of several processes, started by torchrun: one leads, the others follow; FSDP2 shards the model.

See docs/decisions/0005-fsdp.md.

::

    peers     who is who, bounds of waits, and how all end together
    control   the moments that concern all processes
    leader    the main process: what it does, all do
    follower  the others: they do what the main process says
    commands  what the main process says
    fsdp      the model sharded over the processes
"""
