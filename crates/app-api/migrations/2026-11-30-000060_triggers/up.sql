-- What runs workflows of tenants, and when. The executions lie in the schema of each tenant and are not here.
CREATE TABLE triggers (
    id                uuid PRIMARY KEY,
    tenant_id         uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name              text NOT NULL,
    workflow          text NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('cron', 'webhook')),
    cron              text,
    time_zone         text,
    catch_up          text NOT NULL CHECK (catch_up IN ('skip', 'run_all')),
    context           jsonb NOT NULL,
    paused            boolean NOT NULL DEFAULT false,
    -- The next time; it only grows. Null for a webhook, for a paused trigger, and when no time follows.
    next_fire_at      timestamptz,
    -- Nobody fires it before: somebody does already, or it failed.
    not_before        timestamptz NOT NULL,
    -- How often in a row the fire failed.
    failures          integer NOT NULL DEFAULT 0,
    last_fire_at      timestamptz,
    last_execution_id uuid,
    last_failure      text,
    created_by        text NOT NULL,
    created_at        timestamptz NOT NULL,
    UNIQUE (tenant_id, name),
    CHECK ((kind = 'cron') = (cron IS NOT NULL AND time_zone IS NOT NULL)),
    CHECK (kind = 'cron' OR next_fire_at IS NULL)
);
CREATE INDEX triggers_due ON triggers (next_fire_at, not_before) WHERE next_fire_at IS NOT NULL;
