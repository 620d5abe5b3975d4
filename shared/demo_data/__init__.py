"""The embedded data set: phantom patients, drawn by `phantom` and written by `layouts` as real data sets are stored."""

from shared.demo_data.layouts import LAYOUTS, write_demo_data

__all__ = ["LAYOUTS", "write_demo_data"]
