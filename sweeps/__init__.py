"""Sweeps: many jobs on one or several machines."""
