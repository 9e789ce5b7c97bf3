"""Trajectories of any program against the truth: exact scenes, and data sets with ground truth."""
