-- Runs as the role of the tenant.
CREATE TABLE cial_executions (
    id               uuid PRIMARY KEY,
    -- No reference: a record outlives its package.
    package_id       uuid NOT NULL,
    package          text NOT NULL,
    workflow         text NOT NULL,
    definition       jsonb NOT NULL,
    context          jsonb NOT NULL,
    state            text NOT NULL CHECK (state IN ('scheduled', 'running', 'succeeded', 'failed', 'cancelled')),
    reason           text,
    cancel_requested boolean NOT NULL DEFAULT false,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL,
    started_at       timestamptz,
    finished_at      timestamptz
);
CREATE INDEX cial_executions_open ON cial_executions (id) WHERE state IN ('scheduled', 'running');

CREATE TABLE cial_tasks (
    execution_id      uuid NOT NULL REFERENCES cial_executions (id) ON DELETE CASCADE,
    place             integer NOT NULL,
    name              text NOT NULL,
    state             text NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled')),
    attempts          integer NOT NULL,
    next_attempt_at   timestamptz NOT NULL,
    -- Since when the task could not begin, for example because the engine is away.
    not_started_since timestamptz,
    reason            text,
    output            jsonb,
    started_at        timestamptz,
    finished_at       timestamptz,
    PRIMARY KEY (execution_id, name)
);

CREATE TABLE cial_task_lines (
    execution_id uuid NOT NULL REFERENCES cial_executions (id) ON DELETE CASCADE,
    number       bigint GENERATED ALWAYS AS IDENTITY,
    task         text NOT NULL,
    attempt      integer NOT NULL,
    output       text NOT NULL,
    at           timestamptz NOT NULL,
    text         text NOT NULL,
    PRIMARY KEY (execution_id, number)
);

CREATE TABLE cial_paused_workflows (
    name      text PRIMARY KEY,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL
);
