"""``python -m tests.cluster``: see :mod:`tests.cluster.command`."""

from tests.cluster.command import main

raise SystemExit(main())
