"""What an institution allows jobs of others: its own document, and what it says of a job, a task and a moment.

Nothing here reads a clock or a file of a job: the operator, the gate and the command line ask the same functions.

::

    document  the policy, with bounds and defaults; read from a file
    hours     whether jobs may run at a moment, and when that changes
    verdict   a job or a task against the policy: every refusal with its field, value and limit
"""
