"""The programs of ``photon-worker``, a module each.

::

    run              train and evaluate, task after task, until the job ends
    run_distributed  ``run`` where torchrun started several processes
    initialize       ``init``: job.json and round 0
    check            ``check``: can the job's model be built
    evaluate         ``evaluate``: perplexity of any Hugging Face folder
    data             ``data prepare | inspect``
    torchrun         torchrun with exit codes that say what ended it
"""
