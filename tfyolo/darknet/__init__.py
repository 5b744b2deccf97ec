"""Darknet's networks as layers."""
