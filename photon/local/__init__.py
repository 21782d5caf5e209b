"""``photon run``: the launcher of ``photon.launch``'s plan as processes on this machine.

::

    run            from a job file to a model
    supervisor     starts the processes, watches them, says how the job ended
    process        one process: started, restarted a few times, ended with its parent
    environment    what environment the processes get
    gpus           which GPUs each participant gets
    programs       where the services' programs are
    comparisons    the same job centralized, or each participant alone
    held_out       whether participants chose held-out text by one rule
    precision      whether bf16 would be emulated here
    run_folder     what is where in a run's folder
    replay         the membership of another run, for --membership-of
    artifacts      the model, the history and the summary that a run leaves
    awake          time that a sleeping machine does not use up
    object_store   SeaweedFS as a child process
    seaweedfs      its binary, ports and options
    seaweedfs_tls  certificates of its inner ports
    door           where other institutions reach a run, kept in its folder
    joined         a job of another institution: gate and worker
    hub            a run whose door others use, and who may join it
    border         what a run does for participants of other institutions
    front          the way of other institutions to an embedded store
    identity       the key of this installation
"""
