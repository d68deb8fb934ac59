"""Preference tuning on TRL whose numbers are checked."""
