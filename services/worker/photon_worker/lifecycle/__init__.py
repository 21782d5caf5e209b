"""How a worker is stopped and how it ends.

::

    signals      SIGTERM and SIGINT: stop where it is safe
    errors       what can end a worker
    data_errors  the one error of ``data``
    exits        exit codes and the sentence that says why
"""
