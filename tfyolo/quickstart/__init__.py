"""The whole way in one command: from a folder of labelled images to files for a device, within so many minutes."""
