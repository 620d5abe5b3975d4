"""The command line, the series run by papermill, its report, and what users call around it."""
