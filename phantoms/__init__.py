"""The embedded data set: phantom patients, drawn by `phantom` and written by `layouts` as real data sets are stored."""

from phantoms.layouts import LAYOUTS, provide_demo_data, write_demo_data

__all__ = ["LAYOUTS", "provide_demo_data", "write_demo_data"]
