"""A trained model is asked here: embeddings, ranks, queries, verdicts."""
