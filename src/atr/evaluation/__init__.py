"""Embeddings -> numbers and pictures."""
