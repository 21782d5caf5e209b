"""Made-up histories of jobs, for what takes thousands of rounds or many participants.

::

    long  records of 10,000 rounds in a real bucket
    page  an engine with books of a long job, for the page
"""
