"""Environments that tz brings along."""
