-- An owner's start of a tenant that is asleep: asked for and done, counted like restarts.
ALTER TABLE tenants
    ADD COLUMN wakes_asked bigint NOT NULL DEFAULT 0,
    ADD COLUMN wakes_done  bigint NOT NULL DEFAULT 0;
