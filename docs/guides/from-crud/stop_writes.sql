-- Phase 4: commands are the only way in. The table stays, for the way back.
DROP TRIGGER to_outbox ON products;
CREATE FUNCTION no_writes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'products are written by commands: POST /commands/product/<id>';
END $$;
CREATE TRIGGER no_writes BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION no_writes();
