"""What people look at: drawings of embeddings, contact sheets, layouts of dashboards."""
