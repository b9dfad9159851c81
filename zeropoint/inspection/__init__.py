"""Inspection: what is in a Program, layer by layer, as plain data; ``report.inspect`` draws it."""
