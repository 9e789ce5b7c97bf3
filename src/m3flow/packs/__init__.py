"""Packs: the results of many videos in one tar file, with a Parquet table as its index."""
