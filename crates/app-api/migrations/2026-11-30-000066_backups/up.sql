-- Backups of tenants: those that lie in the store, and those that are due. The store holds the bytes.
CREATE TABLE backups (
    id           uuid PRIMARY KEY,
    -- No foreign key: a backup outlives its tenant.
    tenant_id    uuid NOT NULL,
    slug         text NOT NULL,
    -- `missing`: the store has lost the object of a backup that was complete.
    state        text NOT NULL CHECK (state IN ('waiting', 'running', 'complete', 'missing')),
    -- The time of the schedule, or of the request.
    due_at       timestamptz NOT NULL,
    -- Null: the schedule.
    requested_by text,
    -- Nobody copies the tenant before: somebody does already, or it failed.
    not_before   timestamptz NOT NULL,
    -- How often in a row the copy failed.
    failures     integer NOT NULL DEFAULT 0,
    failure      text,
    object       text NOT NULL,
    -- When the copy began: the files are of this time or a little later, while the tenant rested.
    taken_at     timestamptz,
    -- The last due time at which the tenant had not changed since.
    current_at   timestamptz,
    bytes        bigint,
    sha256       bytea CHECK (octet_length(sha256) = 32),
    -- The start of the tenant's container that the copied files are of; null for a frozen one, which may go on without a start.
    last_start   text,
    UNIQUE (tenant_id, due_at),
    CHECK (state NOT IN ('complete', 'missing') OR (taken_at, bytes, sha256) IS NOT NULL)
);
-- A tenant that never rests waits once, however often the schedule comes round.
CREATE UNIQUE INDEX backups_open ON backups (tenant_id) WHERE state IN ('waiting', 'running');
CREATE INDEX backups_due ON backups (due_at, id) WHERE state IN ('waiting', 'running');
CREATE INDEX backups_by_tenant ON backups (tenant_id, id);

-- Each due time is planned once, for all tenants.
CREATE TABLE backup_schedule (
    only_one      boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    planned_until timestamptz NOT NULL
);
