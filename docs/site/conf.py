"""Sphinx's settings for the site: README, docs, the notebooks as they are stored, and the API. See `make site`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Mammogram classification"
html_title = project
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.ipynb", "shared/models/weights/README.md"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "site_steps"]

html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

nb_execution_mode = "off"
nb_custom_formats = {".ipynb": "pipeline.execution.read_described"}  # with alternative texts
myst_heading_anchors = 3
myst_enable_extensions = []

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
