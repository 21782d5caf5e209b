"""A participant's rounds, and what of them survives a kill.

::

    task_loop      task after task until the job ends
    trainer        from a task to an accepted update or an evaluation
    client         the conversation with the aggregator
    update         global minus local, encoded and uploaded part by part
    checkpoint     local checkpoints: resume in mid-round
    global_models  global models on disk, by digest
    progress       heartbeats from a thread
    journal        the participant's own log and trackers
"""
