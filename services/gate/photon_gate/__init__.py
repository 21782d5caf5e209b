"""The gate: an institution's border. The process that sees data has no network; this one, which has it, sees none.

To read it in an hour: guard/border (which guard decides each request), the guards that it names, relay/grants and
relay/passing (bytes), ledger/entries (what is kept), hub/client (what is asked of the hub). The rest carries these.

::

    relay       bytes between the worker and the hub's presigned URLs, bounded and checked on the way
    ledger      what crossed the border, in a chain of lines that shows every change
    recording   what passes the relay, in the ledger
    hub         the hub, spoken with over HTTPS: enrollment, sessions, signed answers
    guard       what may cross, decided before it does
    inner       the institution's own side: the worker protocol, status, metrics
    membership  from an invitation to the end: the loop of the program
    program     ``run``: all of it put together
    keyfile     the key's file, which a rotation changes
    goodbye     ``leave``: a signed farewell
    doctor      ``doctor``: DNS, proxy, TLS, the hub's signature, the clock
    clocks      the time of day and seconds that never go back, handed in
    ends        exit codes and termination records
    main        options and exit codes of ``photon-gate``
    entry       the entry point: nothing heavy is imported before it
"""
