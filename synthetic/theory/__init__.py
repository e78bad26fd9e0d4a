"""What can be known of a task before any training: information in nats, Bayes accuracies, optima of losses."""
