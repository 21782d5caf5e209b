"""``python -m tools.cluster``: see :mod:`tools.cluster.command`."""

from tools.cluster.command import main

raise SystemExit(main())
