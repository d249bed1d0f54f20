-- Changes of tenants as their viewers see them, for streams of events. The latest ones are kept.
CREATE TABLE events (
    id           bigint PRIMARY KEY,
    at           timestamptz NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('tenant.created', 'tenant.changed', 'tenant.deleted')),
    -- No foreign key: the end of a tenant is an event, too.
    tenant_id    uuid NOT NULL,
    slug         text NOT NULL,
    name         text NOT NULL,
    desired      text NOT NULL,
    state        text NOT NULL,
    state_since  timestamptz NOT NULL,
    state_reason text,
    revision     bigint NOT NULL
);

-- The last id. Its lock orders concurrent writers, so that ids have no gap.
CREATE TABLE event_head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id       bigint NOT NULL
);
INSERT INTO event_head (id) VALUES (0);

CREATE FUNCTION tenants_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    tenant record;
    place  bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN tenant := OLD; ELSE tenant := NEW; END IF;
    UPDATE event_head SET id = id + 1 RETURNING id INTO place;
    INSERT INTO events (id, at, kind, tenant_id, slug, name, desired, state, state_since, state_reason, revision)
    VALUES (place, clock_timestamp(), TG_ARGV[0], tenant.id, tenant.slug, tenant.name, tenant.desired, tenant.state,
        tenant.state_since, tenant.state_reason, tenant.revision);
    RETURN NULL;
END $$;
-- Deferred: the lock of the head is the last one of each transaction and lasts as long as its commit. So ids follow the
-- order of commits, a reader of the latest id misses no earlier event, and the lock takes part in no deadlock.
CREATE CONSTRAINT TRIGGER tenants_created AFTER INSERT ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tenants_event('tenant.created');
-- Not for what the reconciler notes for itself.
CREATE CONSTRAINT TRIGGER tenants_changed AFTER UPDATE ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.name, OLD.desired, OLD.state, OLD.state_reason, OLD.generation, OLD.limits, OLD.policy, OLD.app, OLD.container_id)
        IS DISTINCT FROM
        (NEW.name, NEW.desired, NEW.state, NEW.state_reason, NEW.generation, NEW.limits, NEW.policy, NEW.app, NEW.container_id))
    EXECUTE FUNCTION tenants_event('tenant.changed');
CREATE CONSTRAINT TRIGGER tenants_deleted AFTER DELETE ON tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tenants_event('tenant.deleted');
