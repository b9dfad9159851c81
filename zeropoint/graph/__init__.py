"""The one graph and its file: a captured model, its operators, and how it is saved and loaded."""
