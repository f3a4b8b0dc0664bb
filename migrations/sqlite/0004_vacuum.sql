-- Nothing to do: SQLite uses the space of old rows again by itself. PostgreSQL is told here how soon to clear it.
select 1;
