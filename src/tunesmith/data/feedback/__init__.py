"""Keep what people say of answers: a database, its retention, its backups."""
