"""Training: one program that trains the seeds of a task."""
