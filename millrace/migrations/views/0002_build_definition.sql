-- The definition that a build's tables were made for: a process with another one must not go on with it.
ALTER TABLE builds ADD COLUMN definition bytea;
