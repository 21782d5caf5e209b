"""The worker: trains on local data, evaluates, prepares data. The only part that sees text, and that imports torch.

::

    commands     the programs: run, init, check, evaluate, data, torchrun
    round        a participant's rounds: from a task to an accepted update
    distributed  several processes for one participant: FSDP, one leads, the others follow
    training     the loop, model, schedule, device, evaluation
    data         text to tokens, and which tokens a step reads
    lifecycle    signals, errors, exits
    main         options of ``photon-worker``
    entry        the entry point: nothing heavy is imported before it
"""
