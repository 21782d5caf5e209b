"""What a terminal shows of a job.

::

    display  a live table on a terminal, lines in a pipe
    table    the live table
    lines    events and progress as lines
    units    figures as people read them
"""
