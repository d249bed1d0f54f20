ALTER TABLE tenants DROP COLUMN wakes_asked, DROP COLUMN wakes_done;
