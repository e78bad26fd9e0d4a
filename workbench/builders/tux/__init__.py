"""Debian's `tuxpaint-stamps-default`: pictures, sentences and voices of the same things. See ../README.md."""
