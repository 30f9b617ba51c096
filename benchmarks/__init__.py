"""Measures speeds on this machine; scripts/benchmark.py is the command line."""
