"""What training needs and prediction does not: flags, runs, the step, several processes."""
