"""A trained detector in use: images in, boxes out."""
