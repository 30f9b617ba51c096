"""Measurements of speed on this machine; scripts/benchmark.py is their command line."""
