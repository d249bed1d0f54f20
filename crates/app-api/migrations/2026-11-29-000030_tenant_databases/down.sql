ALTER TABLE tenants DROP COLUMN database;
