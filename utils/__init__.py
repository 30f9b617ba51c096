"""The ground: what every other folder may use, and nothing that knows an agent or a task."""
