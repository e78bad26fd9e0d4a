"""How the data sets that ship with the program were made. Developers' tools: nothing here runs during training."""
