"""Named scoring protocols, metrics, tables, figures and the report."""
