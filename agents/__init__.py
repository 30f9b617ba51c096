"""The algorithms. Start with `trqam.py`; every other file shares its parts and copies none."""
