"""Problem 2: pre-train a ResNet50 by BYOL without labels, then classify 65 classes in five settings."""
