"""Sweeps: many jobs on one machine or several."""
