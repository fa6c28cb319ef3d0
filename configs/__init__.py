"""Configurations, one small file an experiment."""
