"""Code that every other folder may import; it imports no other folder of the project."""
