//! Embeds the database migrations.
