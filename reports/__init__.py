"""Reports: run folders and published files become tables, curves and pages."""
