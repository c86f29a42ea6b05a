"""The minimal core under p1, p2 and p3: images, batched augmentation, checkpoints, runs, devices. No model, no loss."""
