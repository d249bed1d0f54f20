DROP TABLE backup_schedule;
DROP TABLE backups;
