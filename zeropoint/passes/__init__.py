"""Passes: functions from a Program to a better one, one file each."""
