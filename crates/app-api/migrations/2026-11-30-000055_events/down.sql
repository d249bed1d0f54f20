DROP TRIGGER tenants_deleted ON tenants;
DROP TRIGGER tenants_changed ON tenants;
DROP TRIGGER tenants_created ON tenants;
DROP FUNCTION tenants_event;
DROP TABLE event_head;
DROP TABLE events;
