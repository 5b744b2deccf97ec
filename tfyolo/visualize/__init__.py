"""Drawn images and plots."""
