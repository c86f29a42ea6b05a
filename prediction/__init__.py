"""What prediction builds on: the image stream, fast networks, and result files."""
