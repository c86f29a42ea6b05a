"""Problem 1: 32x32 images in 50 classes, by MobileNetV2."""
