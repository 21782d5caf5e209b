"""The wall clock of a process, set ahead while it runs: a library that answers for the system's clock (LD_PRELOAD).

libfaketime does more and makes clock_nanosleep fail, by which Python sleeps. The monotonic clock stays what it is, as
it does when somebody sets a machine's clock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    const char *path = getenv("PHOTON_TEST_CLOCK");
    char text[32] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    return size > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@dataclass(frozen=True, slots=True)
class Clock:
    """``environment``: of the process whose clock it is to be."""

    library: Path
    setting: Path

    @classmethod
    def build(cls, folder: Path) -> Self | None:
        """Compile it in ``folder``; None without a C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        source, library, setting = folder / "clock.c", folder / "clock.so", folder / "clock"
        source.write_text(_SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        clock = cls(library, setting)
        clock.ahead(0)
        return clock

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "PHOTON_TEST_CLOCK": str(self.setting)}

    def ahead(self, seconds: int) -> None:
        """Set it so much before the machine's clock."""
        partial = self.setting.with_suffix(".partial")
        partial.write_text(f"{seconds}\n")
        os.replace(partial, self.setting)
