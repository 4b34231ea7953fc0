"""What every verb needs around its work: options, errors, stopping, progress, files and Ray."""
