"""Other projects: their models in and out, and their benchmark suites."""
