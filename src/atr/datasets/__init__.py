"""Publishers' files -> Clips, one file per corpus."""
