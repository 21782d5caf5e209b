"""Benchmarks behind the numbers in the README (one command each), the demo, and the sweep that selected its recipe."""
