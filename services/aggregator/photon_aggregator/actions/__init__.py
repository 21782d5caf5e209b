"""Does what the round machine asks for. Blocking, run in threads, safe to repeat after a crash.

::

    work          from an action to one of the functions below, with spans and retries
    starting      before the rounds: a usable store, the first model
    plans         what follows a commit: the next plan, or the end of the job
    recover       where the job stands, read from the bucket
    past          the older rounds, read after the job has gone on
    scan          what another aggregator has written
    grant         presigned uploads for exactly the parts of an update
    admit         whether an update may be merged
    close         which updates a round takes, recorded before the merge
    closings      the chain of closings: dropping what cannot be merged
    commit        merge, model folder, commit record
    rollback      the commit of a rollback
    housekeeping  logs, summary and pruning beside the rounds
    retain        deletes models and updates that retention does not keep
    leftovers     aborts unfinished multipart uploads
    purge         deletes everything that a job wrote
"""
