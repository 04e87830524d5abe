"""The auditor: every promise, proved on the data at rest."""
