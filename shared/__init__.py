"""Helpers of the mammogram-classification notebook series (research and teaching only)."""

__version__ = "1.0.0"
