"""What an encoder sees of a code. A world is fixed by its arguments alone, never by the seed of the samples."""
