-- The definition that a reset asks a build of; null, an operator's reset, asks one of the definition that is live.
ALTER TABLE resets ADD COLUMN definition bytea;
