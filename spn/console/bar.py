"""What progress bars share."""

SHOWN_AFTER = 1.0
"""Seconds before the bar of sampling or scoring appears, so that short work shows none."""
