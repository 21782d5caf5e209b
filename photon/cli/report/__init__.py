"""``photon report``: runs as one self-contained HTML file. data.py is pure, page.py puts its columns in a page."""
