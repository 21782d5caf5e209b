"""Decides: ``reconcile(observed) -> plan``. Pure, level-triggered.

::

    reconcile    the decision for one job
    active       for a job that has not ended: which condition holds, and what is to be done
    situation    what is known of such a job, derived once
    parts        the parts of its plan: which children are applied, adopted, deleted
    deleting     for a job that was deleted
    closing      for a job whose namespace is being deleted
    claims       the volume claims of workers: what stays of them, and when they go
    repair       what is tried again after an edit, or when it is asked for
    queues       whether queues hold what a round needs
    clock        when a job started, and what is left of its deadline
    observed     what there is, and views of it
    plan         what is decided: objects, status, events, when to reconcile again
    diagnosis    why a pod does not work
    nodes        nodes that do not answer
    disruptions  pods that were stopped where they ran: counted, bounded
    containers   what the containers beside our program say
    reasons      states and reasons: which become events, with which messages
    readiness    Ready, Reconciling, Stalled: for tools that know any object
    conditions   the status: one condition that holds, figures, participants
"""
