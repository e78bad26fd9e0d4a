"""Pictures for people: drawings of embeddings, contact sheets, layouts of dashboards."""
