"""Export files as such: written, read, compared. Where they go is `destinations`' part."""
