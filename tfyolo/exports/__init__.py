"""Exports and the gate that they pass."""
