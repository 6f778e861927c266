-- Phase 1: whatever is written to the table leaves a command, in the same transaction. Both are there, or neither is.
CREATE TABLE outbox (
    id   bigserial PRIMARY KEY,
    line jsonb NOT NULL -- as `millrace send` reads it
);

CREATE FUNCTION to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'no command takes product % out of the range', OLD.product_id;
    ELSIF TG_OP = 'UPDATE' AND (NEW.product_id, NEW.name) <> (OLD.product_id, OLD.name) THEN
        RAISE EXCEPTION 'no command renames product %', OLD.product_id;
    END IF;
    INSERT INTO outbox (line) VALUES (jsonb_build_object(
        'aggregate', 'product', 'id', NEW.product_id, 'command_id', gen_random_uuid(),
        'type', CASE TG_OP WHEN 'INSERT' THEN 'CreateProduct' ELSE 'PriceProduct' END,
        'data', jsonb_build_object('currency', NEW.currency, 'price_cents', NEW.price_cents)
            || CASE TG_OP WHEN 'INSERT' THEN jsonb_build_object('name', NEW.name) ELSE '{}' END));
    RETURN NULL;
END $$;

CREATE TRIGGER to_outbox AFTER INSERT OR UPDATE OR DELETE ON products
    FOR EACH ROW EXECUTE FUNCTION to_outbox();
