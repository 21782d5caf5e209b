"""What all parts of Photon share, and the ``photon`` command. A room imports only rooms below it.

::

    entry       entry points of programs
    cli         what a person types
    local       ``photon run``: a job as processes on this machine
    report      a run afterwards: its history, figures and HTML page
    terminal    what a terminal shows of a job
    launch      which processes a job consists of
    codec       how the values of an update travel
    store       object storage
    policy      what an institution allows jobs of others
    trust       keys and signed statements
    ending      how a program ends, and the record it leaves
    protocol    messages between worker and aggregator, records of a round
    telemetry   logs, metric names, traces, trackers
    api         the job document and its status
    errors      errors that end a command
    exit_codes  exit codes of all programs
    files       files that are whole or absent, folders that one process holds
    processes   child processes that end with their parent
    version     which Photon this is
"""
