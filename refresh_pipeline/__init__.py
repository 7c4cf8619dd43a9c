"""Refresh Pipeline."""
