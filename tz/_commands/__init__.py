"""The commands of `python -m tz`, with one module for each group of commands and one for their options."""
