"""Pictures and the page by which people judge what came out."""
