"""The commands of `rectiseg`, a file each. What a command needs is imported in it, so that --help answers at once."""
