CREATE OR REPLACE FUNCTION tenants_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

ALTER TABLE tenants DROP COLUMN moves;
