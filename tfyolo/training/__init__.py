"""Training: the script, its stages and steps, the run's folder, the data, what is written, callbacks."""
