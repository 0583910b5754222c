"""Clips as WebDataset tars with an index beside each."""
