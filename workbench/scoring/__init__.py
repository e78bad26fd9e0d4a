"""A trained model asked: embeddings, ranks, queries, verdicts."""
