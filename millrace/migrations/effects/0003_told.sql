-- Number of the call of which its aggregate was told that it is in doubt: it is told once.
ALTER TABLE calls ADD COLUMN told integer;
