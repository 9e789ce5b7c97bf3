"""The constants of the camera search, the same for every backend."""

from __future__ import annotations

SCHEMES = ("auto", "one-pass", "two-pass")

CORNERS = 512  # most corners that are tracked
CELLS = 1200  # approximate number of square cells (8x8 px at 320x240); each yields one corner
CORNER_QUALITY = 1e-4  # of the frame's best corner, by the smaller eigenvalue: blurred backgrounds have few
CORNER_BORDER = 8  # px from the picture's edge within which no corner is taken
BAR_MARGIN = 6  # px from a letterbox bar within which no corner is taken

RETURN_DISTANCE = 0.5  # px: largest forward-backward error of a match
MATCH_RADIUS = 25.0  # px: longest displacement of a match
INLIER_DISTANCE = 1.0  # px
OUTLIER_DISTANCE = 1.5  # px: matches further from one hypothesis are left to the next
STILL_DISTANCE = 0.4  # px: a match that moves less is evidence for a static camera
MATCHES_NEEDED = 50  # a pair with no more matches has no camera
INLIERS_NEEDED = 10  # a hypothesis with no more inliers is dropped
INLIERS_SHARE = 0.12  # or with no more than this share of the best one's: a chance fit
HYPOTHESES = 3  # homographies fitted successively, each to the outliers of the previous ones

# Gain and offset are matched where the quantiles of the frames' grey levels differ by this much on average, and
# a line explains most of the difference: new content does not lie on one.
BRIGHTNESS_DIFFERENCE = 2.0  # grey levels
BRIGHTNESS_LEFT = 1 / 3  # of the difference
MOST_TRACKED = 0.6  # of the corners: brightness that matches tracks as many

# A camera that moves no pixel further than this stands still, and its homography is the identity. One
# level of the stored flow is 0.157 px, so a smaller motion is below the homography's noise.
STILL = 0.05  # px

# Homographies that move no pixel further than this are treated as the same motion as the identity, and the better
# one of them is kept: the evidence hardly distinguishes them.
SLOW = 0.5  # px

# The camera also stands still if the identity explains the matches nearly as well as the homography does:
STILL_SUPPORT = (
    0.985  # its share of the homography's support, with 1 - (error / inlier distance)^2 for each match
)
STILL_COST = 1.1  # and the ratio of what the two leave unexplained of all matches

MARGIN = 5.0  # px: a resampled frame is valid where its source is this far inside the current frame

CONFIDENCE = 0.4  # default: a camera less probable than this is not taken out


def cell_size(height: int, width: int) -> int:
    """The side of the square cells with one corner each, in pixels."""
    return max(8, round((height * width / CELLS) ** 0.5))
