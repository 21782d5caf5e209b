"""The aggregator: runs the rounds of one job."""

from __future__ import annotations

from photon_aggregator.blas import fix_kernels

# Here, for this is what runs before anything that imports numpy.
fix_kernels()
