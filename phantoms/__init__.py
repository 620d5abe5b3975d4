"""The demo data set: phantom patients, drawn by `films` and written as real data sets are stored. No real images."""

from phantoms.layouts import LAYOUTS, fingerprint, write_demo_data
from phantoms.patients import Difficulty
