"""Flags, settings of domains and presets, agent files, and the files of run folders."""
