"""Interfaces of the outside world: benchmark suites that take a model of ours as theirs."""
