"""Where the programs of the services are: `photon` starts them and never imports them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from photon.errors import UserError


def find_program(name: str) -> str:
    """The program of the environment that ``photon`` itself runs in.

    Raises:
        UserError: It is not installed.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UserError(f"the program {name} is not installed: pip install 'photon[aggregator,worker,local]'")
    return found
