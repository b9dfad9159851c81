"""The comparison: every method on every engine, measured."""
