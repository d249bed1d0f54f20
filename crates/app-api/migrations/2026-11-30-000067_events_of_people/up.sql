-- Changes of people, keys, invitations and apps are events, too. Each event holds what its readers need, and the role for it.
-- A client that continues after an event of `events` receives `resync`. That table stays for replicas of the earlier release,
-- which find no new rows in it; the next release drops it.
CREATE TABLE event_log (
    id        bigint PRIMARY KEY,
    at        timestamptz NOT NULL,
    kind      text NOT NULL,
    -- No foreign key: the end of a tenant is an event, too. Null: the change concerns no tenant.
    tenant_id uuid,
    -- The role that a reader needs: on the tenant, or on the platform where there is no tenant.
    access    text NOT NULL CHECK (access IN ('read', 'admin')),
    -- The person whom the change concerns: they see it without that role.
    person_id uuid,
    -- The tenant as of the commit.
    tenant    jsonb NOT NULL,
    -- The thing that changed, unless it is the tenant itself.
    resource  jsonb NOT NULL
);
-- To find when a person joined a tenant.
CREATE INDEX event_log_by_person ON event_log (person_id, tenant_id, id) WHERE person_id IS NOT NULL;

CREATE FUNCTION tenant_in_event(tenant tenants) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', tenant.id, 'slug', tenant.slug, 'name', tenant.name, 'desired', tenant.desired,
        'state', tenant.state, 'state_reason', tenant.state_reason, 'revision', tenant.revision,
        'state_since', to_char(tenant.state_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
$$;

-- Called by deferred triggers alone: the lock of the head is the last one of each transaction.
CREATE FUNCTION add_event(kind text, tenant_id uuid, tenant jsonb, access text, person_id uuid, resource jsonb)
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    place bigint;
BEGIN
    UPDATE event_head SET id = event_head.id + 1 RETURNING event_head.id INTO place;
    INSERT INTO event_log (id, at, kind, tenant_id, tenant, access, person_id, resource)
    VALUES (place, clock_timestamp(), kind, tenant_id, tenant, access, person_id, resource);
    NOTIFY tenants;
END $$;

-- An event of something that belongs to a tenant, or to the platform where `of_tenant` is null. With its tenant everything
-- ends, from the request to delete it on: `tenant.deleted` stands for that.
CREATE FUNCTION add_event_beside(kind text, of_tenant uuid, access text, person_id uuid, resource jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    shown jsonb := 'null';
BEGIN
    IF of_tenant IS NOT NULL THEN
        SELECT tenant_in_event(tenants) INTO shown FROM tenants
            WHERE id = of_tenant AND desired <> 'deleted';
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM add_event(kind, of_tenant, shown, access, person_id, resource);
END $$;

CREATE OR REPLACE FUNCTION tenants_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed tenants;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    PERFORM add_event(TG_ARGV[0], changed.id, tenant_in_event(changed), 'read', NULL, 'null');
    RETURN NULL;
END $$;

CREATE FUNCTION users_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed users;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    PERFORM add_event_beside(TG_ARGV[0], NULL, 'read', changed.id,
        jsonb_build_object('kind', 'user', 'id', changed.id, 'name', changed.email, 'role', changed.role));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER users_created AFTER INSERT ON users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION users_event('user.created');
CREATE CONSTRAINT TRIGGER users_changed AFTER UPDATE ON users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.email, OLD.name, OLD.role) IS DISTINCT FROM (NEW.email, NEW.name, NEW.role))
    EXECUTE FUNCTION users_event('user.changed');
CREATE CONSTRAINT TRIGGER users_deleted AFTER DELETE ON users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION users_event('user.deleted');

CREATE FUNCTION memberships_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed memberships;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    PERFORM add_event_beside(TG_ARGV[0], changed.tenant_id, 'read', changed.user_id,
        jsonb_build_object('kind', 'membership', 'id', changed.user_id, 'role', changed.role,
            'name', (SELECT email FROM users WHERE id = changed.user_id)));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER memberships_created AFTER INSERT ON memberships
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION memberships_event('membership.created');
CREATE CONSTRAINT TRIGGER memberships_changed AFTER UPDATE ON memberships
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.role IS DISTINCT FROM NEW.role)
    EXECUTE FUNCTION memberships_event('membership.changed');
CREATE CONSTRAINT TRIGGER memberships_deleted AFTER DELETE ON memberships
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION memberships_event('membership.deleted');

CREATE FUNCTION invitations_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed invitations;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    PERFORM add_event_beside(TG_ARGV[0], changed.tenant_id,
        CASE WHEN changed.tenant_id IS NULL THEN 'read' ELSE 'admin' END, NULL,
        jsonb_build_object('kind', 'invitation', 'id', changed.id, 'name', changed.email, 'role', changed.role));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER invitations_created AFTER INSERT ON invitations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION invitations_event('invitation.created');
CREATE CONSTRAINT TRIGGER invitations_deleted AFTER DELETE ON invitations
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION invitations_event('invitation.deleted');

-- Not for the time of the last use.
CREATE FUNCTION api_keys_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_event_beside(TG_ARGV[0], NEW.tenant_id, 'admin', NEW.person_id,
        jsonb_build_object('kind', 'key', 'id', NEW.id, 'name', NEW.name, 'role', NEW.role));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER api_keys_created AFTER INSERT ON api_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION api_keys_event('key.created');
CREATE CONSTRAINT TRIGGER api_keys_revoked AFTER UPDATE ON api_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.revoked AND NOT OLD.revoked)
    EXECUTE FUNCTION api_keys_event('key.revoked');

CREATE FUNCTION apps_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed apps;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    PERFORM add_event_beside(TG_ARGV[0], NULL, 'read', NULL,
        jsonb_build_object('kind', 'app', 'id', changed.slug, 'name', changed.name));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER apps_created AFTER INSERT ON apps
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION apps_event('app.created');
CREATE CONSTRAINT TRIGGER apps_changed AFTER UPDATE ON apps
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.name, OLD.sealed_env) IS DISTINCT FROM (NEW.name, NEW.sealed_env))
    EXECUTE FUNCTION apps_event('app.changed');
CREATE CONSTRAINT TRIGGER apps_deleted AFTER DELETE ON apps
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION apps_event('app.deleted');

CREATE FUNCTION releases_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    app text := (SELECT slug FROM apps WHERE id = NEW.app_id);
BEGIN
    PERFORM add_event_beside('release.created', NULL, 'read', NULL,
        jsonb_build_object('kind', 'release', 'id', 'v' || NEW.number, 'name', NEW.image, 'app', app));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER releases_created AFTER INSERT ON releases
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION releases_event();

-- The tenants that a rollout moves have events of their own.
CREATE FUNCTION rollouts_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    app text := (SELECT slug FROM apps WHERE id = NEW.app_id);
    release text := (SELECT 'v' || number FROM releases WHERE id = NEW.release_id);
BEGIN
    PERFORM add_event_beside(TG_ARGV[0], NULL, 'read', NULL,
        jsonb_build_object('kind', 'rollout', 'id', NEW.id, 'name', release, 'app', app, 'state', NEW.state));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER rollouts_created AFTER INSERT ON rollouts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rollouts_event('rollout.created');
CREATE CONSTRAINT TRIGGER rollouts_changed AFTER UPDATE ON rollouts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.state, OLD.reason) IS DISTINCT FROM (NEW.state, NEW.reason))
    EXECUTE FUNCTION rollouts_event('rollout.changed');
