DROP INDEX cial_executions_fires;
ALTER TABLE cial_executions DROP COLUMN fire_at, DROP COLUMN trigger_id;
