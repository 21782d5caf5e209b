"""A participant of several processes, started by torchrun: one commands, the others follow; FSDP2 shards the model.

``torchrun`` starts them, ``together`` is what each runs, ``peers`` bounds their waits, ``conduct`` and ``follow`` are
the two sides of ``commands``, ``fsdp`` is the model. See docs/decisions/0005-fsdp.md.
"""
