"""``.ci/run``: Kubernetes' programs are built beside the first tests, and what fails there fails the run."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A build that is waited for; `test` begins only when the build has.
MAKEFILE = """
.PHONY: check test test-sight test-cluster cluster-programs
check test-sight test-cluster:
\t@echo $@ >> done
test:
\t@until grep -q building done; do sleep 0.05; done
\t@{TEST}
\t@echo test >> done; touch tested
cluster-programs:
\t@if [ -n "$(PROGRAMS)" ]; then echo $(PROGRAMS) >> done; else \\
\t  echo building >> done; echo $$$$ > build.pid; {BUILD}; fi
"""


def ci(folder: Path, *, test: str = "true", build: str) -> tuple[int, list[str], str]:
    """Exit code, what was done in its order, and what was said."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "Makefile").write_text(MAKEFILE.replace("{TEST}", test).replace("{BUILD}", build))
    done = subprocess.run([folder / ".ci" / "run"], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (folder / "done").read_text().split(), done.stdout + done.stderr


def test_programs_are_built_beside_the_tests_and_before_what_needs_them(tmp_path: Path) -> None:
    build = "until [ -e tested ]; do sleep 0.05; done; echo built >> done"
    code, done, said = ci(tmp_path, build=build)
    assert code == 0, said
    assert done == ["check", "actionlint", "building", "test", "built", "test-sight", "test-cluster"]


def test_a_build_that_fails_fails_the_run(tmp_path: Path) -> None:
    code, done, said = ci(tmp_path, build="echo no such module >&2; exit 3")
    assert code != 0
    assert done[-1] == "test", "what needs the programs is not begun"
    assert "no such module" in said
    assert "make cluster-programs failed" in said


def test_no_build_goes_on_when_a_test_fails(tmp_path: Path) -> None:
    code, done, _ = ci(tmp_path, test="until [ -e build.pid ]; do sleep 0.05; done; exit 1", build="exec sleep 300")
    assert code != 0
    assert "test-sight" not in done
    try:
        build = os.pidfd_open(int((tmp_path / "build.pid").read_text()))
    except ProcessLookupError:
        return
    with open(build, "rb"):
        assert select.select([build], [], [], 30)[0], "it goes on"
