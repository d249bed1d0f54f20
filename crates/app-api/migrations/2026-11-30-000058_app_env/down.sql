ALTER TABLE apps DROP COLUMN sealed_env;
UPDATE tenants SET app = app - 'app_env' WHERE jsonb_typeof(app) = 'object';
