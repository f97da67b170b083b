"""The compute: stock PostgreSQL over a data directory whose blocks fault in from storage."""
