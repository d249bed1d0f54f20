DROP TABLE open_work;
