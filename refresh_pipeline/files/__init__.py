"""Export files: writing, reading, comparing. Sending them is `destinations`' part."""
