"""What predicting stands on: the stream of images, the network made fast, the files of results."""
