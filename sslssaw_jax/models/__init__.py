"""Building blocks of the systems; they know no losses, loops or files."""
