"""Placeholder until the public surface lands."""
