-- Runs as the role of the tenant.
ALTER TABLE cial_executions
    -- No reference: a record outlives its trigger.
    ADD COLUMN trigger_id uuid,
    -- The time of the trigger's schedule; null when it was fired otherwise.
    ADD COLUMN fire_at timestamptz;
-- A time of a trigger has one execution, whoever creates it and however often.
CREATE UNIQUE INDEX cial_executions_fires ON cial_executions (trigger_id, fire_at) WHERE fire_at IS NOT NULL;
