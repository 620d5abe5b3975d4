"""Side-by-side measurements behind the goals for speed and memory; run them with `python -m pipeline bench`."""
