"""Models of other projects: their files in and out."""
