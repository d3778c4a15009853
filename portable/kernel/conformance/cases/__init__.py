"""The questions that rows are asked, one family of ops a file."""
