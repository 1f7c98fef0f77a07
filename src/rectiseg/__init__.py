"""Rectify scene parsing: GRN and LRN after any parser."""
