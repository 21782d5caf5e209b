"""Fifty short jobs on a real cluster, created, edited, suspended and deleted beside killed operators and nodes.

::

    stories       what happens to one job from its creation to its end, and what must hold then
    documents     the jobs' documents, and what each round must end with
    jobs          a job as kubectl sees it: apply, edit, wait
    disturbances  what is killed meanwhile: operators, pods, kubelets, the API server, whole nodes
    watching      memory of the operator, and what is left over at the end
    soak          all of it at once, with a seed; the table of it
    __main__      ``make soak``
"""
