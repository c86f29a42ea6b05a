"""What training stands on and predicting does without: flags, runs, the step, several processes."""
