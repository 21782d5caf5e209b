"""A run afterwards: what its records say, as figures and as one HTML file.

::

    history  every record of every round, read from the bucket
    summary  the figures of summary.json
    columns  the columns of the report's charts
    page     the HTML file
"""
