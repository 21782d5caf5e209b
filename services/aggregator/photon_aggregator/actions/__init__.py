"""Does what the round machine asks for. Blocking, run in threads, safe to repeat after a crash.

::

    workbench     what all of them work with: store, threads, retries, crash points, clocks
    starting      before the rounds: a usable store, the first model, where the job stands
    plans         what follows a commit: the next plan, or the end of the job
    recover       where the job stands, read from the bucket
    past          the older rounds, read after the job has gone on
    scan          what another aggregator has written
    grant         presigned uploads for exactly the parts of an update
    grants        which digest was granted for which key
    admit         whether an update may be merged
    close         which updates a round takes, recorded before the merge
    closings      the chain of closings: dropping what cannot be merged
    commit        merge, model folder, commit record
    rollback      the commit of a rollback
    chores        housekeeping and past rounds on the event loop, one at a time
    housekeeping  logs, summary and pruning beside the rounds
    retain        deletes models and updates that retention does not keep
    leftovers     aborts unfinished multipart uploads
    purge         deletes everything that a job wrote
"""
