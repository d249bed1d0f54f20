-- Tenants of earlier releases have no limit of their schemas: 1 PiB. A limit that they never agreed to would close those above it at once.
-- This is no change that somebody made: revisions and events stay as they are.
ALTER TABLE tenants DISABLE TRIGGER USER;
UPDATE tenants SET limits = limits || '{"database_bytes": 1125899906842624}' WHERE limits -> 'database_bytes' IS NULL;
ALTER TABLE tenants ENABLE TRIGGER USER;
