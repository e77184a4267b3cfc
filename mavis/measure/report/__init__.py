"""Results as pages, pictures, tables and MLflow runs."""
