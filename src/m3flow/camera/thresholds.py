"""The numbers that decide about the camera, the same on every backend."""

from __future__ import annotations

SCHEMES = ("auto", "one-pass", "prior", "pyramid-prior", "two-pass")

CORNERS = 512  # at most so many corners are followed
CELLS = 1200  # the frame is cut into about so many square cells (8x8 px at 320x240), one corner from each
CORNER_QUALITY = 1e-3  # of the frame's best corner, by the smaller eigenvalue
CORNER_BORDER = 8  # px from the frame's edge within which no corner is taken

RETURN_DISTANCE = 0.5  # px: how near a match must come to its start when it is followed back
MATCH_RADIUS = 25.0  # px: a match that moved further is taken for wrong
INLIER_DISTANCE = 1.0  # px
MATCHES_NEEDED = 50  # a homography is accepted with more matches
INLIERS_NEEDED = 25  # and more inliers than these

# A camera that moves no pixel further than this stands still, and its homography is the identity. One
# level of the stored flow is 0.157 px, so a smaller motion could not be told from the homography's noise.
STILL = 0.05  # px

# It also stands still if no motion explains the matches nearly as well as the homography does, by the sum of
# the squared errors, each counted up to the inliers' distance: where half of the picture moves by itself,
# a homography always finds something to follow.
STILL_COST = 1.1  # times the homography's

MARGIN = 5.0  # px: a resampled frame is trusted where it comes from this far inside the current frame


def cell_size(height: int, width: int) -> int:
    """The side of the square cells that the corners are chosen from, in pixels."""
    return max(8, round((height * width / CELLS) ** 0.5))
