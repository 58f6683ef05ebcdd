"""What is known of files, vector stores and their files, in SQL: SQLite by default, PostgreSQL by URL."""
