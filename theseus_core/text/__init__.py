"""Text encoders: the built-in one, trained along and needing no download, and frozen ones from a name or a folder."""
