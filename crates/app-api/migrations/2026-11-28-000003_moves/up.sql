-- A revision is of what its owner wants: what is said of a tenant moves on under it. Guards look at the moves, which
-- grow with every change, also with one made by hand.
ALTER TABLE tenants ADD COLUMN moves bigint NOT NULL DEFAULT 0;

CREATE OR REPLACE FUNCTION tenants_revise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.moves := OLD.moves + 1;
    NEW.revision := OLD.revision;
    IF (NEW.slug, NEW.name, NEW.desired, NEW.generation, NEW.image, NEW.env, NEW.limits, NEW.policy, NEW.restarts_asked)
        IS DISTINCT FROM
       (OLD.slug, OLD.name, OLD.desired, OLD.generation, OLD.image, OLD.env, OLD.limits, OLD.policy, OLD.restarts_asked)
    THEN
        NEW.revision := OLD.revision + 1;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
