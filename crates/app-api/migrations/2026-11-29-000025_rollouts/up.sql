-- Rollouts of releases. The rows are the whole state of a rollout: every process continues from them.
CREATE TABLE rollouts (
    id          uuid PRIMARY KEY,
    app_id      uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    release_id  uuid NOT NULL REFERENCES releases ON DELETE CASCADE,
    state       text NOT NULL CHECK (state IN ('running', 'paused', 'rolling_back', 'done', 'failed', 'aborted')),
    -- Like `02:00-04:00` or `idle`; null is any time.
    time_window text,
    reason      text,
    log         text,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE UNIQUE INDEX rollouts_one_active ON rollouts (app_id) WHERE state IN ('running', 'paused', 'rolling_back');
CREATE INDEX rollouts_by_app ON rollouts (app_id, created_at);

CREATE TABLE rollout_tenants (
    rollout_id  uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    wave        integer NOT NULL CHECK (wave > 0),
    state       text NOT NULL CHECK (state IN ('waiting', 'moving', 'moved', 'failed', 'rolled_back', 'skipped')),
    -- The number of the release before the rollout.
    from_number integer NOT NULL,
    -- The tenant was in error before the move, so that an error after the move says nothing about the release.
    was_failing boolean NOT NULL DEFAULT false,
    reason      text,
    changed_at  timestamptz NOT NULL,
    PRIMARY KEY (rollout_id, tenant_id)
);
CREATE INDEX rollout_tenants_by_tenant ON rollout_tenants (tenant_id);

CREATE TRIGGER rollouts_tell AFTER INSERT OR UPDATE ON rollouts
    FOR EACH STATEMENT EXECUTE FUNCTION tenants_tell();
