"""The gate: an institution's border. The process that sees data has no network; this one, which has it, sees none.

::

    relay      bytes between the worker and the hub's presigned URLs, bounded and checked on the way
    ledger     what crossed the border, in a chain of lines that shows every change
    recording  uploads of the relay, in the ledger
    main       options and exit codes of ``photon-gate``
    entry      the entry point: nothing heavy is imported before it
"""
