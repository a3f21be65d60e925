"""The commands of `python -m tz`: one module for each group of them, and their options."""
