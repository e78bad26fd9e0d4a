"""All that knows of more than one process: groups, divided weights, the launcher."""
