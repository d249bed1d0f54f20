ALTER TABLE tenants DROP COLUMN release_id, DROP COLUMN app;
DROP TABLE releases, apps;
