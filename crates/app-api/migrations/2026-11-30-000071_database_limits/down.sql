-- Earlier releases refuse to read a limit that they do not know, and open every schema whose role they connect as.
ALTER TABLE tenants DISABLE TRIGGER USER;
UPDATE tenants SET limits = limits - 'database_bytes';
UPDATE tenants SET database = database - 'excess' WHERE database -> 'excess' IS NOT NULL;
ALTER TABLE tenants ENABLE TRIGGER USER;
