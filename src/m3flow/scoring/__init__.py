"""Evaluation of tracks of any program against ground truth: exact scenes, and data sets with ground truth."""
