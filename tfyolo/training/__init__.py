"""Training: the script, the step, the run's folder, what is learned from, what is written."""
