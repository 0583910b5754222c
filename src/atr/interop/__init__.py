"""Weights and interfaces of the outside world."""
