"""Report page and pictures for judging the results."""
