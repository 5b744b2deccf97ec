"""Darknet's files, in and out."""
