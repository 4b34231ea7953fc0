"""What every command needs around its work: options, errors, stopping, progress, files and Ray."""
