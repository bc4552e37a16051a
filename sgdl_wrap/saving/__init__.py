"""What a saved run looks like: its header, its seal and the file that holds it."""
